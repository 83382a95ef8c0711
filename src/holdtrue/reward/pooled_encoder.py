"""An encoder pooled by mean or largest state, with a linear head of ours.

transformers has no such classifier, so it is kept as sentence-transformers keeps its models, the head as the
last module, ``Dense``: ``SentenceTransformer(folder).encode`` gives the head's outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from holdtrue.errors import ModelError
from holdtrue.reward.pools import Pool
from holdtrue.rundir import write_json

DENSE = "2_Dense"


class PooledEncoder(PreTrainedModel):  # type: ignore[misc]
    """An encoder, and a bias-free linear head ``score`` of ours on its pooled state.

    Args:
        encoder: the backbone; its own pooling layer is taken out, as nothing reads it.
        outputs: outputs of the head.
        pool: ``mean`` or ``max``; how the folder says it is pooled.
    """

    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, encoder: Any, outputs: int, pool: Pool) -> None:
        super().__init__(encoder.config)
        self.encoder = encoder
        self.pool = pool
        self.score = nn.Linear(encoder.config.hidden_size, outputs, bias=False)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = nn.Identity()

    def save_pretrained(self, folder: Path, **_: Any) -> None:  # type: ignore[override,unused-ignore]
        """A folder of sentence-transformers: backbone, pooling and the head as its dense module."""
        self.encoder.save_pretrained(folder)
        width, outputs = self.score.in_features, self.score.out_features
        types = {"": "Transformer", "1_Pooling": "Pooling", DENSE: "Dense"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(types.items())
        ]
        for path in ("1_Pooling", DENSE):
            (folder / path).mkdir(exist_ok=True)
        pooling = {f"pooling_mode_{name}_tokens": self.pool == name for name in ("mean", "max")}
        dense = {"in_features": width, "out_features": outputs, "bias": False}
        write_json(folder / "modules.json", modules)
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width} | pooling)
        identity = {"activation_function": "torch.nn.modules.linear.Identity"}
        write_json(folder / DENSE / "config.json", dense | identity)
        weight = self.score.weight.detach().float().cpu().contiguous()
        save_file({"linear.weight": weight}, folder / DENSE / "model.safetensors", metadata={"format": "pt"})

    def load_head(self, folder: Path) -> None:
        """The head of a folder that :meth:`save_pretrained` wrote, in float32.

        Raises:
            ModelError: it is not there, or is that of another kind of reward model.
        """
        file = folder / DENSE / "model.safetensors"
        if not file.is_file():
            raise ModelError(
                f"{folder} is a reward model but its head {DENSE}/model.safetensors is not there"
            )
        try:
            weight = load_file(file)["linear.weight"]
        except Exception as error:  # a broken file makes its reader raise anything
            raise ModelError(f"{file} cannot be loaded: {str(error).splitlines()[0][:200]}") from error
        if weight.shape != self.score.weight.shape:
            seen, right = tuple(weight.shape), tuple(self.score.weight.shape)
            raise ModelError(f"{file}: the head is {seen}, expected {right}")
        self.score.float()
        with torch.no_grad():
            self.score.weight.copy_(weight)
