"""The model of the kind ``pair_ranker``: an encoder read at three marker tokens, and a head on pairs of them.

    s_k = Linear(H, 1) · tanh(Linear(2H, H) · [h_source; h_candidate_k])          gap = s_1 - s_2

with dropout before either layer (LLM-Blender, arXiv 2306.02561, section 3.2 and its code). Saved as the
encoder in transformers' format, ``head.safetensors`` and the card.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from holdtrue.errors import ModelError, SettingsError
from holdtrue.reward.model import Batch, RewardModel, RewardOutput, sees_ahead
from holdtrue.tokens.batches import PaddedBatch
from holdtrue.tokens.joint import MARKERS

if TYPE_CHECKING:
    from holdtrue.reward.kinds.pair_ranker import PairRanker
    from holdtrue.reward.store import Source

HEAD = "head.safetensors"


class Ranker(nn.Module):
    """The encoder and its head, saved side by side."""

    def __init__(self, backbone: Any, dropout: float) -> None:
        super().__init__()
        width = backbone.config.get_text_config().hidden_size
        self.backbone = backbone
        self.score = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def save_pretrained(self, folder: Path) -> None:
        """Both parts into a folder."""
        self.backbone.save_pretrained(folder)
        save_file({k: v.detach().contiguous() for k, v in self.score.state_dict().items()}, folder / HEAD)


class PairRankerModel(RewardModel):
    """An encoder that scores two candidates it reads together.

    Args:
        ranker: encoder and head.
        pad_id: padding token.
        kind: the kind.
        markers: ids of the three marker tokens.
    """

    def __init__(self, ranker: Ranker, pad_id: int, kind: PairRanker, markers: list[int]) -> None:
        super().__init__(ranker, pad_id, kind)
        self.register_buffer("markers", torch.tensor(markers), persistent=False)
        self.markers: Tensor

    @property
    def inner(self) -> Any:
        """The encoder."""
        return self.classifier.backbone

    @property
    def backbone(self) -> Any:
        return self.classifier.backbone

    def forward(self, batch: Batch) -> RewardOutput:
        """The gap of every joint sequence; each is one comparison."""
        assert isinstance(batch, PaddedBatch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.backbone(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask
            ).last_hidden_state
        with torch.autocast(self.device.type, enabled=False):
            source, first, second = self._at_markers(hidden.float(), batch.input_ids).unbind(1)
            sides = torch.stack([torch.cat([source, first], -1), torch.cat([source, second], -1)], 1)
            return self.kind.read(self.classifier.score(sides)[..., 0], source, batch.targets.length)

    def examine(self, flex: bool = False) -> None:
        """Encoders are always padded.

        Raises:
            ModelError: a token's state does not see what stands after it, as in decoders.
        """
        self.layout, self.layout_reason = "padded", "an encoder reads every sequence whole"
        if not sees_ahead(self.backbone, self.device):
            raise ModelError(
                f"{type(self.inner).__name__} reads only what stands before a token; pair_ranker needs an "
                "encoder, for decoders there is model.kind=preference_lm"
            )
        self.quicken_padded()

    def _at_markers(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """(N, 3, H) states at the marker tokens, which each sequence holds once."""
        places = (input_ids[:, None, :] == self.markers[None, :, None]).int().argmax(-1)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def load(kind: PairRanker, source: Source) -> tuple[PairRankerModel, bool]:
    """The model of a folder, and whether its head is new.

    Raises:
        ModelError: it is no encoder, or weights are missing.
        SettingsError: adapters are asked for.
    """
    if source.settings.lora is not None or source.adapted:
        raise SettingsError("model.lora is not for pair_ranker, whose marker tokens must be learned in full")
    if source.config.is_encoder_decoder:
        raise ModelError(f"{source.base} is an encoder-decoder; pair_ranker needs an encoder")
    backbone, tokenizer = source.weights(AutoModel, unused=("pooler.",)), source.tokenizer
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # not read, and often not in the file
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(MARKERS)}, replace_extra_special_tokens=False
    )
    head = Path(source.path) / HEAD
    fresh = not head.is_file()
    if source.trained and fresh:
        raise ModelError(f"{source.path} lacks {HEAD}, the head of its pair_ranker")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        if len(tokenizer) > backbone.get_input_embeddings().num_embeddings:
            backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        ranker = Ranker(backbone, kind.dropout)
    if not fresh:
        try:
            ranker.score.load_state_dict(load_file(head))
        except Exception as error:  # damaged, or of another width
            raise ModelError(f"{head} cannot be loaded: {str(error).splitlines()[0][:200]}") from error
    pad_id = tokenizer.pad_token_id
    markers = tokenizer.convert_tokens_to_ids(list(MARKERS))
    return PairRankerModel(ranker, 0 if pad_id is None else pad_id, kind, markers), fresh
