"""Rewards of a saved folder as transformers, peft or sentence-transformers compute them, without holdtrue."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.tokens.batches import pad
from holdtrue.tokens.conversation import Ids
from holdtrue.tokens.tree import Tree, grow


def unreadable(folder: Path, loaded: store.Loaded) -> str | None:
    """Why nothing here but holdtrue reads the folder; None where something does."""
    if loaded.model.pool not in ("mean", "max"):
        return None
    if (folder / "adapter_config.json").is_file():
        return f"an adapter with {loaded.model.pool} pooling is loaded by holdtrue alone"
    if find_spec("sentence_transformers") is None:
        return "sentence-transformers is not installed"
    return None


def name(loaded: store.Loaded) -> str:
    """Who computes the rewards, and what of the model they know."""
    others = "sentence-transformers" if loaded.model.pool in ("mean", "max") else "plain transformers"
    gated = ", without the gate" if loaded.model.gate is not None else ""
    return others + gated + (", once saved" if loaded.imported is not None else "")


def rewards(folder: Path, loaded: store.Loaded, usable: Sequence[Tree], trust: bool) -> np.ndarray:
    """(N,) rewards of single sequences, right-padded with the padding token the folder declares, if any.

    What another tool saved is first saved as ours. Others read one number per text: of kinds that read steps
    they are given the text up to each step's end.
    """
    kind, outputs = loaded.model.kind, len(loaded.model.kind.labels)
    with ExitStack() as stack:
        if loaded.imported is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            store.save(replace(loaded), folder, RewardCard())
        load = _sentence_transformer if loaded.model.pool in ("mean", "max") else _classifier
        model, config = load(folder, outputs, trust)
        pad_id = config.get_text_config().pad_token_id
        known = loaded.model.inner.get_input_embeddings().num_embeddings
        batched = pad_id is not None and 0 <= pad_id < known
        stops = [one.marks[0] if kind.marks == "steps" else [len(one.answers[0]) - 1] for one in usable]
        texts = [one.answers[0][: i + 1] for one, own in zip(usable, stops, strict=True) for i in own]
        logits = torch.cat(
            [
                _logits(loaded, model, batch, pad_id if batched else 0)
                for batch in ([texts] if batched else [[text] for text in texts])
            ]
        )
    out = kind.read(logits, logits, torch.tensor([len(own) for own in stops]).cumsum(0) - 1)
    return np.asarray(out.rewards)


def _logits(loaded: store.Loaded, model: Any, sequences: Sequence[Ids], pad_id: int) -> Tensor:
    batch = pad([grow([ids]) for ids in sequences], pad_id, separator=loaded.model.separator)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    with torch.inference_mode():
        if loaded.model.pool in ("mean", "max"):
            found: Tensor = model(inputs)["sentence_embedding"].float()
        else:
            found = model(**inputs).logits.float()
    return found


def _sentence_transformer(folder: Path, outputs: int, trust: bool) -> tuple[Any, Any]:
    with quiet_loading():
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=trust).eval()
    return model, model[0].auto_model.config


def _classifier(folder: Path, outputs: int, trust: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    with quiet_loading():
        if (folder / "adapter_config.json").is_file():
            from peft import AutoPeftModelForSequenceClassification

            model = AutoPeftModelForSequenceClassification.from_pretrained(
                folder, num_labels=outputs, dtype=torch.float32
            )
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=outputs, dtype=torch.float32, trust_remote_code=trust
            )
    return model.eval(), model.config
