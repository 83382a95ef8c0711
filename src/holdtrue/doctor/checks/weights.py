"""W: rows nobody trained, ties and adapters that do not go together, numbers that overflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.dialect import said
from holdtrue.doctor.encoding import Encoded
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.rendering import Unrendered, plain, tool_use
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tallies import of_encoded
from holdtrue.doctor.untrained import Untrained, ranges, show_ranges, untrained
from holdtrue.doctor.weights import EMBEDDINGS, HEADS, Tensor

BASE_WITH_CHATML = "QwenLM/Qwen3#1064; unslothai/unsloth#1072; hiyouga/LlamaFactory#8365"
RARE = 1e-3
"""Share of the examples up to which an untrained ordinary token in the data is only warned of."""
OVERFLOW = ("gemma3", "gemma4", "qwen2_vl", "qwen2_5_vl")
"""Model types that overflow in float16 (huggingface/transformers#39972, unslothai/unsloth PR 5055)."""
EAGER = ("qwen2", "qwen2_vl", "qwen2_5_vl")
"""Model types whose eager attention is known to go wrong: nan in float16, worse in bfloat16."""


@dataclass(frozen=True)
class Training:
    """Which rows of the two matrices an adapter trains; None means all of them."""

    embedding: Collection[int] | None
    head: Collection[int] | None

    @classmethod
    def of(cls, config: Mapping[str, Any], tied: bool) -> Training:
        """From PEFT's ``modules_to_save``, ``target_modules`` and ``trainable_token_indices``."""
        embedding, head = names("embedding"), names("head")
        modules = _module_names(config)
        indices = config.get("trainable_token_indices") or {}
        if not isinstance(indices, Mapping):
            indices = {"embed_tokens": indices}
        rows = {matrix: _rows_of(indices, endings) for matrix, endings in (("e", embedding), ("h", head))}
        of_embedding = None if modules & embedding else rows["e"]
        of_head = None if modules & head else rows["h"]
        if tied:  # one matrix with two names
            of_embedding = None if of_embedding is None or of_head is None else of_embedding | of_head
            of_head = of_embedding
        return cls(of_embedding, of_head)

    def lacks(self, ids: Collection[int]) -> dict[str, list[int]]:
        """Of the ids, those whose row stays frozen, by matrix."""
        parts = {"embedding": self.embedding, "head": self.head}
        missing = {name: sorted(set(ids) - set(rows)) for name, rows in parts.items() if rows is not None}
        return {name: rows for name, rows in missing.items() if rows}


def names(matrix: str) -> set[str]:
    """Module names of the embedding or the head: ``embed_tokens``, ``lm_head`` ..."""
    return {ending.removesuffix(".weight") for ending in (EMBEDDINGS if matrix == "embedding" else HEADS)}


@check("W01")
def untrained_rows(subject: Subject) -> Results:
    """Rows of the embeddings and the head that no training moved; fails when the template, the data or the
    tools use one of them and no adapter trains it."""
    found = _untrained(subject)
    ids = np.unique(np.concatenate([one.all for one in found.values()])) if found else np.empty(0, np.int64)
    evidence = [_counts(one) for one in found.values()]
    values: dict[str, Any] = {
        "untrained": {name: ranges(one.all) for name, one in found.items()},
        "rules": {
            name: {rule: ranges(rows) for rule, rows in one.by_rule.items()} for name, one in found.items()
        },
    }
    if not len(ids):
        rows = ", ".join(f"{one.name} {one.rows} x {one.width}" for one in _matrices(subject).values())
        yield Finding("W01", "ok", f"no untrained rows in {rows}", values=values)
        return
    try:
        used = used_ids(subject)
    except Missing as missing:
        yield Finding(
            "W01",
            "warn",
            f"{'; '.join(evidence)}. Which of them are used is not known: {missing}",
            "a token whose row was never trained is neither understood nor stopped at",
            "put the tokenizer into the folder and check again",
            BASE_WITH_CHATML,
            values,
        )
        return
    hit = {id: used[id] for id in map(int, ids) if id in used}
    frozen = _frozen(subject, hit)
    rare = _rare(subject, frozen)
    shown = [
        f"{_name(subject, id)} ({', '.join(_rules(found, id))}; used by {uses})" for id, uses in hit.items()
    ]
    values |= {
        "used": sorted(hit),
        "frozen": sorted(frozen),
        "used_by": {str(id): uses for id, uses in hit.items()},
    }
    text = f"{'; '.join(evidence)}. {len(hit)} of them are used" + (
        f": {'; '.join(shown[:3])}" if shown else ""
    )
    if not frozen:
        yield Finding("W01", "ok", text + (", and the adapter trains them" if hit else ""), values=values)
        return
    yield Finding(
        "W01",
        "warn" if set(frozen) == rare else "fail",
        text,
        "a model cannot tell an untrained token from any other one: it neither stops at it nor understands "
        "it, and gradients through zero rows become NaN",
        f"start from the chat model, or set rows {show_ranges(sorted(frozen))} to the mean of the trained "
        "rows and train embedding and head (with LoRA: trainable_token_indices, or modules_to_save)",
        BASE_WITH_CHATML,
        values | {"fix": {"mean_rows": sorted(frozen)}},
    )


@check("W02")
def frozen_new_tokens(subject: Subject) -> Results:
    """An untrained token is used, and the adapter leaves its row as it is; fails."""
    config = subject.adapter_config
    found = _untrained(subject)
    used = used_ids(subject)
    hit = sorted({int(id) for one in found.values() for id in one.all} & set(used))
    training = Training.of(config, is_tied(subject))
    missing = training.lacks(hit)
    values = {"ids": hit, "frozen": missing, "modules_to_save": sorted(_module_names(config))}
    if not missing:
        what = (
            f"{len(hit)} untrained ids are used and the adapter trains them"
            if hit
            else "no untrained id is used"
        )
        yield Finding("W02", "ok", what, values=values)
        return
    ids = sorted({id for rows in missing.values() for id in rows})
    named = ", ".join(_name(subject, id) for id in ids[:3])
    modules = _module(subject, "embedding"), _module(subject, "head")
    wanted = [modules[0]] if is_tied(subject) else [name for name in modules if name]
    yield Finding(
        "W02",
        "fail",
        f"{len(ids)} untrained ids are used ({named}) and their rows stay frozen in {' and '.join(missing)}",
        "the adapter cannot teach the model a token whose rows it does not train: it will not stop",
        f"set trainable_token_indices to ids {show_ranges(ids)} of {' and '.join(wanted)}, or "
        f"modules_to_save to {wanted}",
        "QwenLM/Qwen3#1064; modelscope/ms-swift#5998",
        values | {"fix": {"adapter_config.json": {"trainable_token_indices": dict.fromkeys(wanted, ids)}}},
    )


@check("W03")
def tied_both_trained(subject: Subject) -> Results:
    """The adapter trains embedding and head as two matrices although the model has one; fails."""
    config = subject.adapter_config
    modules = _module_names(config)
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
        f"set modules_to_save to {[_module(subject, 'embedding')]} and ensure_weight_tying to true",
        "hiyouga/LlamaFactory#6446",
        values
        | {
            "fix": {
                "adapter_config.json": {
                    "modules_to_save": [_module(subject, "embedding")],
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


@of_encoded
class Usage:
    """In how many examples each token stands."""

    def __init__(self, subject: Subject) -> None:
        self._counts = np.zeros(0, np.int64)

    def see(self, one: Encoded) -> None:
        ids = np.unique(one.ids)
        if len(ids) and ids[-1] >= len(self._counts):
            self._counts = np.pad(self._counts, (0, int(ids[-1]) + 1 - len(self._counts)))
        self._counts[ids] += 1

    @property
    def examples_of(self) -> dict[int, int]:
        """id -> examples that hold it."""
        return {id: int(self._counts[id]) for id in np.flatnonzero(self._counts).tolist()}


def used_ids(subject: Subject) -> dict[int, str]:
    """Ids that will be read or written, each with what uses it: template, stop, tools, data."""
    used: dict[int, list[str]] = {}

    def note(ids: Collection[int], what: str) -> None:
        for id in ids:
            uses = used.setdefault(int(id), [])
            if what not in uses:
                uses.append(what)

    if subject.tokenizer.eos_token_id is not None:
        note([subject.tokenizer.eos_token_id], "end of text")
    try:
        template = subject.template
        note(template.ids(template.text(plain(2)) + template.generation_prompt), "template")
        if "tools" in subject.uses:
            note(template.controls_in(template.text(tool_use())), "tools")
    except (Missing, Unrendered):
        pass
    if subject.examples:
        note(subject.counted(Usage).examples_of, "data")
    return {id: ", ".join(uses) for id, uses in used.items()}


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


def _matrices(subject: Subject) -> dict[str, Tensor]:
    both = {"embedding": subject.weights.embedding, "head": subject.weights.head}
    found = {name: tensor for name, tensor in both.items() if tensor is not None}
    if not found:
        raise Missing("neither embeddings nor an output matrix of a known name in the weights")
    if packed := [tensor for tensor in found.values() if not tensor.floating]:
        raise Missing(f"{packed[0].name} is packed ({packed[0].dtype}), its rows cannot be read")
    return found


def _untrained(subject: Subject) -> dict[str, Untrained]:
    try:
        vocabulary = len(subject.tokenizer)
    except Missing:
        vocabulary = None
    found = {
        name: untrained(tensor, subject.weights.statistics(tensor), vocabulary)
        for name, tensor in _matrices(subject).items()
    }
    return {name: one for name, one in found.items() if len(one.all)}


def _counts(one: Untrained) -> str:
    rules = "; ".join(f"{len(rows)} {rule}: {show_ranges(rows)}" for rule, rows in one.by_rule.items())
    return f"{len(one.all)} untrained rows in {one.matrix} ({rules})"


def _rules(found: Mapping[str, Untrained], id: int) -> list[str]:
    return sorted({rule for one in found.values() for rule in one.rules_of(id)})


def _frozen(subject: Subject, hit: Mapping[int, str]) -> dict[int, str]:
    """Ids that no adapter trains; all of them where there is no adapter."""
    try:
        lacking = Training.of(subject.adapter_config, is_tied(subject)).lacks(hit)
    except Missing:
        return dict(hit)
    return {id: uses for id, uses in hit.items() if any(id in rows for rows in lacking.values())}


def _rare(subject: Subject, frozen: Mapping[int, str]) -> set[int]:
    """Of the ids those that only the data uses, in few examples, and that are ordinary tokens."""
    only = {id for id, uses in frozen.items() if uses == "data"} - set(subject.tokenizer.added_tokens_decoder)
    if not only:
        return set()
    counts, most = subject.counted(Usage).examples_of, max(1, RARE * len(subject.examples or ()))
    return {id for id in only if counts.get(id, 0) <= most}


def _name(subject: Subject, id: int) -> str:
    return f"{subject.tokenizer.convert_ids_to_tokens(id)} ({id})"


def _module_names(config: Mapping[str, Any]) -> set[str]:
    """Last parts of the names of all modules an adapter saves or targets."""
    found: set[str] = set()
    for key in ("modules_to_save", "target_modules"):
        value = config.get(key) or []
        found |= {str(name).rpartition(".")[2] for name in ([value] if isinstance(value, str) else value)}
    return found


def _rows_of(indices: Mapping[str, Any], endings: Collection[str]) -> set[int]:
    return {
        int(row)
        for name, rows in indices.items()
        if name.rpartition(".")[2] in endings and isinstance(rows, list)
        for row in rows
    }


def _module(subject: Subject, matrix: str) -> str:
    """Name of the module of the embedding or the head, as PEFT's settings want it."""
    tensor = subject.weights.embedding if matrix == "embedding" else subject.weights.head
    return tensor.name.removesuffix(".weight").rpartition(".")[2] if tensor else ""


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
    matrices = _matrices(subject)
    found = {
        tensor.name: np.flatnonzero(~np.isfinite(subject.weights.statistics(tensor).peaks))
        for tensor in matrices.values()
    }
    for tensor in subject.weights.tensors.values():
        if len(tensor.shape) == 1 and tensor.floating:
            found[tensor.name] = np.flatnonzero(~np.isfinite(tensor.read(0, tensor.rows)))
    return found
