"""W03-W05: are embedding and head tied as the config says, and do the numbers hold?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from holdtrue.doctor.adapters import module_names, module_of, names
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.dialect import said
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.untrained import ranges, show_ranges
from holdtrue.doctor.weights import Tensor

OVERFLOW = ("gemma3", "gemma4", "qwen2_vl", "qwen2_5_vl")
"""Model types that overflow in float16 (huggingface/transformers#39972, unslothai/unsloth PR 5055)."""
EAGER = ("qwen2", "qwen2_vl", "qwen2_5_vl")
"""Model types whose eager attention is known to go wrong: nan in float16, worse in bfloat16."""


@check("W03")
def tied_both_trained(subject: Subject) -> Results:
    """The adapter trains embedding and head as two matrices although the model has one; fails."""
    config = subject.adapter_config
    modules = module_names(config)
    both = bool(modules & names("embedding")) and bool(modules & names("head"))
    values = {"tied": is_tied(subject), "modules": sorted(modules)}
    if not (is_tied(subject) and both) or config.get("ensure_weight_tying"):
        kind = "tied" if is_tied(subject) else "separate"
        saved = ", ".join(sorted(modules & (names("embedding") | names("head")))) or "neither of them"
        yield Finding(
            "W03", "ok", f"embedding and head are {kind}; the adapter trains {saved}", values=values
        )
        return
    yield Finding(
        "W03",
        "fail",
        f"the model is tied (one matrix), but the adapter trains both: {', '.join(sorted(modules))}",
        "two copies of one matrix are trained apart: merging keeps only one of them, or training diverges",
        f"set modules_to_save to {[module_of(subject, 'embedding')]} and ensure_weight_tying to true",
        "hiyouga/LlamaFactory#6446",
        values
        | {
            "fix": {
                "adapter_config.json": {
                    "modules_to_save": [module_of(subject, "embedding")],
                    "ensure_weight_tying": True,
                }
            }
        },
    )


@check("W04")
def tie_flag(subject: Subject) -> Results:
    """``tie_word_embeddings`` is set, but the files hold two matrices that differ; fails."""
    weights = subject.weights
    flag = _tie_flag(subject)
    embedding, head = weights.embedding, weights.head
    if embedding is None or head is None or not flag:
        kind = "an embedding and a head" if head else "an embedding and no head"
        yield Finding(
            "W04", "ok", f"tie_word_embeddings is {flag}; the files hold {kind}", values={"flag": flag}
        )
        return
    rows = _different_rows(embedding, head)
    values = {"flag": flag, "different_rows": len(rows), "first": [int(row) for row in rows[:3]]}
    if not len(rows):
        yield Finding("W04", "ok", "tie_word_embeddings is true, and both matrices are equal", values=values)
        return
    yield Finding(
        "W04",
        "fail",
        f"tie_word_embeddings is true, but {len(rows)} rows of {embedding.name} ({embedding.rows}) and "
        f"{head.name} ({head.rows}) differ: {show_ranges(rows)}",
        "a program that believes the flag drops one of the two matrices, and the model becomes another one",
        "set tie_word_embeddings to false in config.json, or merge the adapter again with the matrices tied",
        "hiyouga/LlamaFactory#6446",
        values | {"fix": {"config.json": {"tie_word_embeddings": False}}},
    )


@check("W05")
def numerics(subject: Subject) -> Results:
    """NaN or infinity in the weights fails, and so does float16 with a family that overflows in it; eager
    attention with one that goes wrong with it warns."""
    good = []
    config: Mapping[str, Any] | None
    try:
        config = subject.config
    except Missing:
        config = None
    try:
        broken = {name: rows for name, rows in _nonfinite(subject).items() if len(rows)}
        if broken:
            named = "; ".join(f"{name} rows {show_ranges(rows)}" for name, rows in broken.items())
            yield Finding(
                "W05",
                "fail",
                f"NaN or infinity in {named}",
                "every logit becomes NaN, and the first id of the vocabulary is written without end",
                "take the last checkpoint without NaN, and train in bfloat16",
                "vllm-project/vllm#14126",
                {"nonfinite": {name: ranges(rows) for name, rows in broken.items()}},
            )
        else:
            good.append("embedding, head and norms are finite")
    except Missing:
        if config is None:
            raise
    if config is None:
        if good:
            yield Finding("W05", "ok", f"{good[0]}; the type is not known without config.json")
        return
    settings = subject.settings or {}
    family = str(config.get("model_type"))
    dtype = settings.get("dtype") or config.get("dtype") or config.get("torch_dtype")
    half = settings.get("fp16") is True or str(dtype).rpartition(".")[2] in ("float16", "half")
    attention = settings.get("attn_implementation") or config.get("_attn_implementation")
    values = {"model_type": family, "dtype": "float16" if half else dtype, "attn_implementation": attention}
    changes = subject.dialect.changes(
        {"dtype": "bfloat16"} | ({"fp16": False, "bf16": True} if settings.get("fp16") else {})
        if half
        else {"attn_implementation": "sdpa"}
    )
    if half and (family.startswith(OVERFLOW) or (family in EAGER and attention == "eager")):
        yield Finding(
            "W05",
            "fail",
            f"{family} in float16" + (" with eager attention" if attention == "eager" else ""),
            "its activations exceed what float16 holds (65,504): logits become NaN, the first id is written",
            f"use bfloat16: {said(changes)}",
            "huggingface/transformers#39972; huggingface/transformers PR 33312",
            values | {"fix": {"settings": changes}},
        )
    elif attention == "eager" and family in EAGER:
        yield Finding(
            "W05",
            "warn",
            f"{family} with eager attention",
            "eager attention of this family loses precision (perplexity 8.00 instead of 7.13 in bfloat16) "
            "and is one cause of stray tokens such as addCriterion",
            f"{said(changes)} or flash_attention_2",
            "huggingface/transformers PR 33317; QwenLM/Qwen3-VL#759",
            values | {"fix": {"settings": changes}},
        )
    else:
        good.append(f"{family} in {'float16' if half else dtype}, attention {attention or 'by default'}")
        yield Finding("W05", "ok", "; ".join(good), values=values)


def is_tied(subject: Subject) -> bool:
    """Whether embedding and head are one matrix: as the config says, else whether the files hold no head."""
    if (flag := _tie_flag(subject)) is not None:
        return flag
    return subject.weights.head is None


def _tie_flag(subject: Subject) -> bool | None:
    try:
        config = subject.config
    except Missing:
        return None
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, Mapping) else {}):
        if isinstance(place.get("tie_word_embeddings"), bool):
            return bool(place["tie_word_embeddings"])
    return None


def matrices_of(subject: Subject) -> dict[str, Tensor]:
    both = {"embedding": subject.weights.embedding, "head": subject.weights.head}
    found = {name: tensor for name, tensor in both.items() if tensor is not None}
    if not found:
        raise Missing("neither embeddings nor an output matrix of a known name in the weights")
    if packed := [tensor for tensor in found.values() if not tensor.floating]:
        raise Missing(f"{packed[0].name} is packed ({packed[0].dtype}), its rows cannot be read")
    return found


def _different_rows(one: Tensor, other: Tensor) -> list[int]:
    rows = min(one.rows, other.rows)
    found = list(range(rows, max(one.rows, other.rows)))
    if one.width != other.width:
        return list(range(rows))
    for first, chunk in one.chunks():
        last = min(first + len(chunk), rows)
        if last > first:
            differs = (chunk[: last - first] != other.read(first, last)).any(axis=1)
            found += (first + np.flatnonzero(differs)).tolist()
    return sorted(found)


def _nonfinite(subject: Subject) -> dict[str, Any]:
    """Rows with NaN or infinity, of the two matrices and of all vectors (norms, biases)."""
    matrices = matrices_of(subject)
    found = {
        tensor.name: np.flatnonzero(~np.isfinite(subject.weights.statistics(tensor).peaks))
        for tensor in matrices.values()
    }
    for tensor in subject.weights.tensors.values():
        if len(tensor.shape) == 1 and tensor.floating:
            found[tensor.name] = np.flatnonzero(~np.isfinite(tensor.read(0, tensor.rows)))
    return found
