"""Who says a loop: the probability that each of several checkpoints gives to it, copy by copy.

A fault that the reference gives as much probability as the current policy comes from the reference, or
from how both are run; one that only the current policy gives comes from its training. That the
probability grows with every copy is no finding: all language models reinforce what they have just said
(DITTO, 2206.02369).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holdtrue.doctor.findings import Finding
from holdtrue.doctor.forward import quiet
from holdtrue.doctor.rollouts import Row
from holdtrue.errors import DataError, ModelError
from holdtrue.records import Rollout, as_json

MOST_ROWS = 16
MOST_TOKENS = 2_048
COPIES = 5
LEAST = 0.01
"""Probability a token: a model that gives no copy of a loop as much did not write it."""
LOOPS = ("tail_cycle", "ctrl_token_in_body", "near_loop")


@dataclass(frozen=True)
class Place:
    """A flagged stretch in ids: what stands before ``start`` is read, copies of ``period`` ids are scored."""

    index: int
    ids: Sequence[int]
    start: int
    period: int

    @property
    def copies(self) -> int:
        """Whole copies that stand there, at most :data:`COPIES`."""
        return max(1, min(COPIES, (len(self.ids) - self.start) // self.period))


def attribute(rows: Sequence[Row], checkpoints: Mapping[str, Path]) -> Finding:
    """Score the loops of up to :data:`MOST_ROWS` rows under every checkpoint, the reference first.

    For each the mean log-probability of the ids of copy 1, 2, ... is averaged over rows. ``fail`` when
    the last checkpoint gives the first copy e times the reference's probability a token or more: training
    taught it. Where no checkpoint gives any copy :data:`LEAST`, none of them wrote it: nothing follows.

    Raises:
        ModelError: a checkpoint cannot be loaded. DataError: no row has a loop to score.
    """
    if len(checkpoints) < 2:
        raise DataError(f"attribution compares two checkpoints or more, got {', '.join(checkpoints)}")
    first = next(iter(checkpoints.values()))
    tokenizer = _tokenizer(first)
    places = [place for row in rows if (place := _place(row, tokenizer)) is not None][:MOST_ROWS]
    if not places:
        raise DataError("no row has a loop or control tokens that could be scored")
    means: dict[str, list[float]] = {}
    for name, folder in checkpoints.items():
        scored = _scores(folder, places)
        means[name] = [
            float(np.mean([copies[i] for copies in scored if len(copies) > i]))
            for i in range(max(map(len, scored)))
        ]
    names = list(checkpoints)
    gain = means[names[-1]][0] - means[names[0]][0]
    strange = max(map(max, means.values())) < np.log(LEAST)
    taught = gain >= 1 and not strange
    evidence = "; ".join(
        f"{name}: " + ", ".join(f"{np.exp(value):.2g}" for value in values) for name, values in means.items()
    )
    return Finding(
        "ATTRIBUTION",
        "fail" if taught else "ok",
        f"probability a token of copies 1, 2, ... of {len(places)} faults, geometric mean; {evidence}",
        f"none of {', '.join(names)} wrote this: all find it most unlikely."
        if strange
        else _reading(names[0], names[-1], gain),
        f"Find the step: give checkpoints between {names[0]} and {names[-1]}."
        if taught
        else "Give the checkpoint that sampled these rollouts, with its tokenizer and chat template."
        if strange
        else "A KL term to this reference keeps it; look at its data, its template and its numerics.",
        "2206.02369",
        {"rows": [place.index for place in places], "mean_logprob": means, "gain": gain},
    )


def _reading(first: str, last: str, gain: float) -> str:
    if gain >= 1:
        return f"{last} says it {np.exp(gain):.1f} times as readily as {first}: training taught it."
    if gain <= -1:
        return (
            f"{first} says it {np.exp(-gain):.1f} times as readily as {last}: {last} hardly wrote these "
            "rollouts, or has unlearned it."
        )
    return f"{first} says it about as readily: it comes from the start checkpoint, or from the engine."


def _tokenizer(folder: Path) -> Any:
    from holdtrue.doctor.subject import Subject

    return Subject(folder).tokenizer


def _place(row: Row, tokenizer: Any) -> Place | None:
    flag = next((flag for flag in row.flags if flag.detector in LOOPS and flag.severity == "fail"), None)
    if flag is None:
        return None
    prompt = _prompt_ids(row.rollout, tokenizer)
    if row.rollout.completion_ids and flag.tokens:
        answer, start = list(row.rollout.completion_ids), flag.tokens[0]
        period = int(flag.values.get("period", 1))
    elif flag.start is not None:
        text = row.rollout.text
        head = tokenizer(text[: flag.start], add_special_tokens=False)["input_ids"]
        size = int(flag.values.get("period", min(len(text) - flag.start, 40)))
        piece = tokenizer(text[flag.start : flag.start + size], add_special_tokens=False)["input_ids"]
        rest = tokenizer(text[flag.start :], add_special_tokens=False)["input_ids"]
        answer, start, period = [*head, *rest], len(head), len(piece)
    else:
        return None
    begin = len(prompt) + start
    ids = [*prompt, *answer][: begin + COPIES * period]
    cut = max(0, len(ids) - MOST_TOKENS)
    if begin - cut < 1 or not period or len(ids) <= begin:
        return None
    return Place(row.index, ids[cut:], begin - cut, period)


def _prompt_ids(rollout: Rollout, tokenizer: Any) -> list[int]:
    if isinstance(rollout.prompt, str):
        return list(tokenizer(rollout.prompt)["input_ids"])
    rendered = tokenizer.apply_chat_template(
        as_json(rollout.prompt), tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _scores(folder: Path, places: Sequence[Place]) -> list[list[float]]:
    """The mean log-probability of the ids of each copy, for each place."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).float().eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the checkpoint {folder} cannot be loaded: {reason}") from error
    rows = model.get_input_embeddings().weight.shape[0]
    result = []
    for place in places:
        if max(place.ids) >= rows:
            raise ModelError(f"{folder} has {rows} embedding rows, a rollout has the id {max(place.ids)}")
        with torch.no_grad():
            logits = model(torch.tensor([place.ids])).logits[0, place.start - 1 : -1]
        taken = torch.tensor(place.ids[place.start :])
        logprobs = torch.log_softmax(logits, -1).gather(1, taken[:, None])[:, 0].tolist()
        copies = [logprobs[i * place.period : (i + 1) * place.period] for i in range(place.copies)]
        result.append([float(np.mean(copy)) for copy in copies])
    return result
