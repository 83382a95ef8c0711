"""The model of the kind ``preference_lm``: a causal or sequence-to-sequence LM, read at two tokens.

The output layer runs in float32 whatever the precision of the rest, and of a decoder's vocabulary only the
two rows that are read are computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from holdtrue.errors import ModelError
from holdtrue.reward.model import Batch, RewardModel, RewardOutput, last_real_token, sees_ahead
from holdtrue.tokens import attention
from holdtrue.tokens.batches import TreeBatch

if TYPE_CHECKING:
    from holdtrue.reward.kinds.preference_lm import PreferenceLm
    from holdtrue.reward.store import Source


class PreferenceModel(RewardModel):
    """A language model whose next token says which answer is better.

    Args:
        lm: a causal or sequence-to-sequence LM (or a peft model around one).
        pad_id: padding token of the padded layout.
        kind: names the tokens.
        tokens: their ids.

    Raises:
        ModelError: the LM has no plain linear output layer.
    """

    def __init__(self, lm: Any, pad_id: int, kind: PreferenceLm, tokens: tuple[int, int]) -> None:
        super().__init__(lm, pad_id, kind)
        self.decoder = not self.inner.config.is_encoder_decoder
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.tokens: Tensor
        if not isinstance(self.head, nn.Linear):
            raise ModelError(f"{type(self.inner).__name__} has no plain linear output layer")
        self.head.forward = self._output  # type: ignore[method-assign,assignment]

    @property
    def backbone(self) -> Any:
        return getattr(self.inner, self.inner.base_model_prefix, self.inner)

    @property
    def head(self) -> Any:
        """The LM's output layer."""
        return self.inner.get_output_embeddings()

    def forward(self, batch: Batch) -> RewardOutput:
        """The gap of every joint sequence; each is one comparison."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self._next_token(batch)
        return self.kind.read(logits.float(), logits, batch.targets.length)

    def examine(self, flex: bool = False) -> None:
        """As of decoders; encoder-decoders are always padded.

        Raises:
            ModelError: it is no decoder: a token's state sees what stands after it.
        """
        if self.decoder:
            if sees_ahead(self.backbone, self.device):
                raise ModelError(
                    f"{type(self.inner).__name__} is an encoder, which does not say what comes next; "
                    "for encoders there is model.kind=pair_ranker"
                )
            super().examine(flex)
        else:
            self.layout, self.layout_reason = "padded", "an encoder reads every sequence whole"

    def _next_token(self, batch: Batch) -> Tensor:
        """(N, 2) logits of the two tokens after each sequence."""
        if isinstance(batch, TreeBatch):
            batch.plan.read_only_layer = self._read_only.index if self._read_only else None
            with attention.laid_out(batch.plan):
                logits = self.inner(
                    input_ids=batch.input_ids,
                    position_ids=batch.position_ids,
                    attention_mask=torch.ones_like(batch.input_ids),
                    use_cache=False,
                ).logits
            rows: Tensor = logits[0, batch.rows]
            return rows
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        if self.decoder:
            logits = self.inner(**inputs, position_ids=batch.position_ids).logits
            return last_real_token(logits, batch.attention_mask)
        start = batch.input_ids.new_full((len(batch.input_ids), 1), self.inner.config.decoder_start_token_id)
        step: Tensor = self.inner(**inputs, decoder_input_ids=start).logits[:, 0, self.tokens]
        return step

    def _output(self, hidden: Tensor) -> Tensor:
        # What a family does to logits afterwards (soft caps, scales) it does to these two as to all.
        # Sequence-to-sequence models may add a bias to the whole vocabulary, and have a single position.
        weight, bias = self.head.weight, self.head.bias
        with torch.autocast(self.device.type, enabled=False):
            if self.decoder:
                weight, bias = weight[self.tokens], None if bias is None else bias[self.tokens]
            return linear(hidden.float(), weight.float(), None if bias is None else bias.float())


def load(kind: PreferenceLm, source: Source) -> tuple[PreferenceModel, bool]:
    """The model of a folder, and whether no card says that it was trained to compare.

    Raises:
        ModelError: it is no language model, lacks weights, or its tokens for the two answers are no single
            tokens.
    """
    auto = AutoModelForSeq2SeqLM if source.config.is_encoder_decoder else AutoModelForCausalLM
    tokens = _single_tokens(kind.tokens, source.tokenizer)
    lm = source.weights(auto)
    if source.adapted:
        lm = source.with_saved_adapter(lm)
    elif source.settings.lora is not None:
        lm = source.with_new_adapter(lm, "SEQ_2_SEQ_LM" if source.config.is_encoder_decoder else "CAUSAL_LM")
    pad_id = source.tokenizer.pad_token_id
    return PreferenceModel(lm, 0 if pad_id is None else pad_id, kind, tokens), not source.trained


def _single_tokens(texts: list[str], tokenizer: Any) -> tuple[int, int]:
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    for text, own in zip(texts, ids, strict=True):
        if len(own) != 1 or own[0] == tokenizer.unk_token_id:
            said = f"{len(own)} tokens" if len(own) != 1 else "unknown"
            raise ModelError(
                f"the reply {text!r} is {said} to this tokenizer; name two single tokens: "
                "model.kind: {kind: preference_lm, tokens: [..., ...]}"
            )
    if ids[0] == ids[1]:
        raise ModelError(f"the replies {texts[0]!r} and {texts[1]!r} are the same token")
    return ids[0][0], ids[1][0]
