"""W01, W02: rows that are used and were never trained, and adapters that leave them so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from holdtrue.doctor.adapters import Training, module_names, module_of
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.checks.weights import is_tied, matrices_of
from holdtrue.doctor.encoding import Encoded
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.rendering import Unrendered, plain, tool_use
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tallies import of_encoded
from holdtrue.doctor.untrained import Untrained, ranges, show_ranges, untrained

BASE_WITH_CHATML = "QwenLM/Qwen3#1064; unslothai/unsloth#1072; hiyouga/LlamaFactory#8365"
RARE = 1e-3
"""Share of the examples up to which an untrained ordinary token in the data is only warned of."""


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
        rows = ", ".join(f"{one.name} {one.rows} x {one.width}" for one in matrices_of(subject).values())
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
    values = {"ids": hit, "frozen": missing, "modules_to_save": sorted(module_names(config))}
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
    modules = module_of(subject, "embedding"), module_of(subject, "head")
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


def _untrained(subject: Subject) -> dict[str, Untrained]:
    try:
        vocabulary = len(subject.tokenizer)
    except Missing:
        vocabulary = None
    found = {
        name: untrained(tensor, subject.weights.statistics(tensor), vocabulary)
        for name, tensor in matrices_of(subject).items()
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
