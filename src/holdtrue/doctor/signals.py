"""Signals: what many rollouts show together, and none of them alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import NormalDist, fmean, median, pstdev, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.findings import Finding, Severity
from holdtrue.doctor.reading import Reading
from holdtrue.doctor.tool_calls import TOOLS
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.intervals import wilson

if TYPE_CHECKING:
    from holdtrue.doctor.rollouts import Row

Rows = Sequence["Row"]
FEW = 5
"""Rows below which two groups are not compared."""
_CALLS = re.compile(
    r"<tool_call>|<function[=_]|<\|tool_call|<\|python_tag\|>|\[TOOL_CALLS\]|<｜tool▁calls▁begin｜>|<search>|<code>"
)
_CODE = re.compile(r"```\w")
"""What a tool may run, where a tool answers it."""
_ANSWERS = re.compile(r"</answer>|\\boxed\b|<\|begin_of_box\|>")
_ENDED = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence"})
"""Words of engines for "the policy ended its turn"."""


def _finding(
    id: str, severity: Severity, evidence: str, why: str, fix: str, source: str, **values: Any
) -> Finding:
    """A finding that says why and what to do only where something is wrong."""
    bad = severity != "ok"
    return Finding(id, severity, evidence, why if bad else "", fix if bad else "", source, values)


def _level(value: float, warn: float, fail: float) -> Severity:
    """The severity of a value that is bad when high."""
    return "fail" if value >= fail else "warn" if value >= warn else "ok"


def read(rows: Rows, vocabulary: Vocabulary | None = None) -> list[Finding]:
    """All signals, also that nothing is wrong; those whose columns are missing are left out."""
    found = [*truncation(rows), *several_ends(rows, vocabulary), *turn_ends(rows, vocabulary)]
    found += void_turns(rows, vocabulary)
    found += blind_reward(rows)
    return [*found, *group_collapse(rows), *advantage_on_junk(rows), *gap_trend(rows)]


def truncation(rows: Rows) -> Iterator[Finding]:
    """TRUNCATION: the share of answers that the length limit cut; warns from 0.1 and fails from 0.5 on.

    Cut answers that loop are the loop's fault, not the limit's, and are said apart.
    """
    known = [row for row in rows if row.rollout.finish is not None]
    cut = [row for row in known if row.rollout.finish == "length"]
    if not known:
        return
    rate = len(cut) / len(known)
    low, high = wilson(len(cut), len(known))
    loops = sum(any(flag.detector in ("tail_cycle", "near_loop") for flag in row.flags) for row in cut)
    tokens = [len(row.rollout.completion_ids) for row in cut if row.rollout.completion_ids]
    lengths = tokens or [len(row.rollout.text) for row in cut]
    evidence = (
        f"{len(cut):,} of {len(known):,} answers were cut ({rate:.0%}, interval {low:.0%} to {high:.0%})"
    )
    if cut:
        evidence += f", at {max(lengths):,} {'tokens' if tokens else 'characters'}; {loops} of them loop"
    meant = [row.rollout.meta.get("reference") for row in rows]
    wanted = sorted(len(text) for text in meant if isinstance(text, str))
    hint = (
        f" (95 % of the references have {wanted[int(0.95 * (len(wanted) - 1))]:,} characters)"
        if wanted
        else ""
    )
    looped = loops > len(cut) / 2
    yield _finding(
        "TRUNCATION",
        _level(rate, 0.1, 0.5),
        evidence,
        "Most cut answers loop: they would not end at any limit."
        if looped
        else "Answers are cut before they end: many rewards then see no result, and the end is not learned.",
        "Mend the loops first; they use up any limit."
        if looped
        else f"Raise the limit (max_new_tokens, max_completion_length) above what answers need{hint}.",
        "huggingface/trl#5697",
        rate=rate,
        cut=len(cut),
        known=len(known),
        loops=loops,
        limit=max(tokens, default=None),
    )


def several_ends(rows: Rows, vocabulary: Vocabulary | None) -> Iterator[Finding]:
    """SEVERAL_ENDS: answers that count as cut although they end with a declared end token."""
    cut = [row for row in rows if row.rollout.finish == "length" and row.rollout.completion_ids]
    if vocabulary is None or not cut:
        return
    last = [int((row.rollout.completion_ids or [0])[-1]) for row in cut]
    ended = [id for id in last if id in vocabulary.ends]
    share = len(ended) / len(cut)
    most = max(set(ended), key=ended.count) if ended else None
    yield _finding(
        "SEVERAL_ENDS",
        _level(share, 0.1, 0.1),
        f"{share:.0%} of {len(cut)} answers said to be cut ended on "
        + (vocabulary.names([most]) if most is not None else "no end token"),
        "The trainer knows one end token and the model several: ended answers count as cut.",
        f"Give the trainer all end tokens: {sorted(vocabulary.ends)}.",
        "huggingface/trl PR 7039",
        share=share,
        ends=sorted(vocabulary.ends),
    )


def turn_ends(rows: Rows, vocabulary: Vocabulary | None) -> Iterator[Finding]:
    """TURN_ENDS: by turn, the share of the policy's turns whose last token is an end token.

    A turn is a run of tokens whose loss mask is 1. Warns when fewer than 0.9 of the turns before the last
    one end so: they were cut, or stopped by a string, and the turn was left open.
    """
    turns: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        ids, mask = row.rollout.completion_ids, row.rollout.loss_mask
        if vocabulary is None or not ids or mask is None or len(mask) != len(ids):
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, dtype=bool), [0]])))
        for turn, last in enumerate(edges[1::2].tolist()):
            turns[turn].append(int(ids[last - 1]) in vocabulary.ends)
    if len(turns) < 2:
        return
    shares = {turn: fmean(ended) for turn, ended in sorted(turns.items())}
    lowest = min(list(shares.values())[:-1])
    said = ", ".join(f"{t + 1}: {share:.0%} of {len(turns[t])}" for t, share in list(shares.items())[:8])
    yield _finding(
        "TURN_ENDS",
        _level(-lowest, -0.9, 1.0),
        f"turns that end with an end token: {said}",
        "Turns that end otherwise stay open, and the next one begins inside them.",
        "Put the end token behind a turn that a stop string ended, in the next prompt and in training.",
        "Visual-Agent/DeepEyes (fault E)",
        shares={str(turn): share for turn, share in shares.items()},
    )


def void_turns(rows: Rows, vocabulary: Vocabulary | None = None) -> Iterator[Finding]:
    """VOID_TURNS: the share of rollouts with a turn of the policy that neither calls a tool nor answers.

    Looked for where 5 rollouts or more call a tool in a form that is known, and half of all call one or give
    an ``<answer>``; so never in plain chat. A turn that a tool's turn follows must call, or hold a block of
    code; the last one, where the row says that the policy ended it, must answer: in tags or a box where half
    of the rollouts do, else in words. Rows of ids that cannot be decoded are not counted. Warns from 1 % on;
    no threshold is published.
    """
    read = [(row, Reading(row.rollout, vocabulary)) for row in rows]
    read = [(row, one) for row, one in read if one.text or not row.rollout.completion_ids]
    called = [_CALLS.search(one.text) is not None for _, one in read]
    agents = [one for (_, one), calls in zip(read, called, strict=True) if calls or "</answer>" in one.text]
    if sum(called) < FEW or len(agents) < len(read) / 2:
        return
    tagged = sum(_ANSWERS.search(one.text) is not None for one in agents) >= len(agents) / 2
    void = [row for row, one in read if _is_void(one, tagged)]
    said = ", ".join(f"row {row.index}" for row in void[:5])
    yield _finding(
        "VOID_TURNS",
        _level(len(void) / len(read), 0.01, 2.0),
        f"{len(void):,} of {len(read):,} rollouts have a turn with neither a tool call nor an answer"
        + (f", as {said}" if said else ""),
        "Such turns end episodes early and drift from what tools said; they come before gradients explode.",
        "Leave rollouts with a void turn out of the update, or give them no reward; show the format first.",
        "SimpleTIR (2509.02479): 22.1 to 50.5 on AIME24 without them",
        share=len(void) / len(read),
        rows=[row.index for row in void],
    )


def _is_void(reading: Reading, tagged: bool) -> bool:
    answer = reading.rollout.answer
    *before, last = [reading.text[start:end] for start, end in reading.own]
    if not isinstance(answer, str):  # what the user answers may be a question
        pairs = pairwise(answer)
        before = [one.content for one, after in pairs if one.role == "assistant" and after.role in TOOLS]
    if any(not any(kind.search(turn) for kind in (_CALLS, _CODE, _ANSWERS)) for turn in before):
        return True
    if (reading.rollout.finish or "").lower() not in _ENDED or _CALLS.search(last):
        return False
    return not (_ANSWERS.search(last) if tagged else last.strip())


def blind_reward(rows: Rows) -> Iterator[Finding]:
    """REWARD_BLIND: whether degenerate answers get as much reward as the others to the same prompts.

    Differences are taken within groups (same prompt and step) where they have both, else over all rows;
    the 95 % interval is Student's. Fails when the rewards do not differ at all, or when the interval lies
    above minus half of their spread: then junk costs little, if anything. Warns when it reaches above
    minus a tenth. Nothing is wrong where the interval lies below 0 and no degenerate answer gets more than
    any of the others it is compared with: a reward that gives junk the least sees it, however it spreads.
    """
    known = [row for row in rows if row.rollout.reward is not None and np.isfinite(row.rollout.reward)]
    bad = [row for row in known if row.verdict == "fail"]
    good = [row for row in known if row.verdict != "fail"]
    if len(bad) < FEW or len(good) < FEW:
        return
    compared = _within_groups(known)
    differences = [fmean(junk) - fmean(others) for junk, others in compared]
    paired = len(differences) >= FEW
    if not paired:
        compared = [([_reward(row) for row in bad], [_reward(row) for row in good])]
        centre = fmean(_reward(row) for row in good)
        differences = [_reward(row) - centre for row in bad]
    spread = pstdev([_reward(row) for row in known])
    mean = fmean(differences)
    half = _student(len(differences)) * stdev(differences) / len(differences) ** 0.5
    low, high = mean - half, mean + half
    least = high < 0 and all(max(junk) <= min(others) for junk, others in compared)
    severity: Severity = "ok"
    if not least and (not spread or low > -0.5 * spread):
        severity = "fail"
    elif not least and high > -0.1 * spread:
        severity = "warn"
    word, ends = ("less", (-high, -low)) if mean < 0 else ("more", (low, high))
    others = "others to the same prompts" if paired else "the others"
    yield _finding(
        "REWARD_BLIND",
        severity,
        f"{len(bad)} degenerate answers get {abs(mean):.3f} {word} reward than {others} "
        f"(interval {ends[0]:.3f} to {ends[1]:.3f})"
        f"{', and always the least' if least else ''}; rewards spread by {spread:.3f}",
        "The reward pays for junk, does not see it, or takes too little for it to pull the policy back.",
        "Audit the reward (holdtrue doctor reward), and give such answers the lowest one: veto for control "
        "tokens and text behind the last tag, ngram_penalty for loops in plain text.",
        "Visual-Agent/DeepEyes#131",
        difference=mean,
        interval=[low, high],
        spread=spread,
    )


def _student(count: int) -> float:
    """The 97.5 % point of Student's t with count - 1 degrees of freedom, to 1 % from 4 on.

    t = z + (z³ + z)/4ν + (5z⁵ + 16z³ + 3z)/96ν² (Abramowitz and Stegun 26.7.5)
    """
    z, free = NormalDist().inv_cdf(0.975), count - 1
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def _within_groups(rows: Rows) -> list[tuple[list[float], list[float]]]:
    """The rewards of degenerate answers and of the others, of each group that has both."""
    result = []
    for group in _groups(rows):
        bad = [_reward(row) for row in group if row.verdict == "fail"]
        good = [_reward(row) for row in group if row.verdict != "fail"]
        if bad and good:
            result.append((bad, good))
    return result


def _reward(row: Row) -> float:
    assert row.rollout.reward is not None
    return row.rollout.reward


def _groups(rows: Rows) -> list[list[Row]]:
    """Answers of one policy to one prompt at one step."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        rollout = row.rollout
        prompt = rollout.prompt if isinstance(rollout.prompt, str) else rollout.prompt_key
        groups[(prompt, rollout.step, rollout.policy)].append(row)
    return list(groups.values())


def group_collapse(rows: Rows) -> Iterator[Finding]:
    """GROUP_COLLAPSE: whether the answers to one prompt are all the same, so that no advantage is left.

    Distinct-4 of a group: different runs of four words over all of them, at most 200 words an answer.
    Warns when its median over groups of four or more is below 0.3, fails below 0.1.
    """
    shares, spreads = [], []
    for group in _groups(rows):
        if len(group) < 4:
            continue
        rewards = {row.rollout.reward for row in group if row.rollout.reward is not None}
        if rewards:
            spreads.append(len(rewards) > 1)
        runs = [_runs(row.rollout.text) for row in group]
        total = sum(map(len, runs))
        if total:
            shares.append(len(set().union(*runs)) / total)
    if len(shares) < FEW:
        return
    share = median(shares)
    learning = bool(spreads) and fmean(spreads) >= 0.5
    yield _finding(
        "GROUP_COLLAPSE",
        "ok" if learning else _level(-share, -0.3, -0.1),
        f"median distinct-4 of {len(shares)} groups is {share:.2f}",
        "The answers to a prompt hardly differ: advantages vanish and exploration has ended.",
        "Raise the temperature or the entropy term, go back to an earlier checkpoint, or use clip-higher.",
        "rllm-org/rllm#116",
        distinct_4=share,
        groups=len(shares),
    )


def _runs(text: str) -> list[tuple[str, ...]]:
    words = text.split(maxsplit=200)[:200]
    return [tuple(words[i : i + 4]) for i in range(len(words) - 3)]


def advantage_on_junk(rows: Rows) -> Iterator[Finding]:
    """ADVANTAGE_ON_JUNK: sum(abs(advantage)) behind the onset of a fault, over the sum of all.

    An answer's advantage counts for each of its characters, a token's for itself. Warns from 1 %, fails
    from 5 % on when a third of it is positive. No threshold is published: these are ours.
    """
    total = junk = positive = 0.0
    for row in rows:
        each = _advantages(row)
        total += float(np.abs(each).sum())
        starts = [flag.start for flag in row.flags if flag.severity == "fail" and flag.start is not None]
        if starts:
            behind = each[round(len(each) * min(starts) / max(len(row.rollout.text), 1)) :]
            junk += float(np.abs(behind).sum())
            positive += float(behind.clip(min=0).sum())
    if not total:
        return
    share, rewarded = junk / total, positive / junk if junk else 0.0
    yield _finding(
        "ADVANTAGE_ON_JUNK",
        _level(share, 0.01, 0.05 if rewarded > 1 / 3 else 2.0),
        f"{share:.1%} of the advantages' mass lies behind a fault's onset, {rewarded:.0%} of it positive",
        "The update trains the junk along with what it stands beside.",
        "Leave flagged answers out of the update, or give their junk tokens a negative advantage.",
        "",
        share=share,
        positive=rewarded,
    )


def _advantages(row: Row) -> NDArray[np.float64]:
    """An answer's advantage for each character, or for each token where they are given so."""
    given = row.rollout.advantage
    if given is None:
        return np.zeros(0)
    each = np.full(len(row.rollout.text), given) if isinstance(given, (int, float)) else np.asarray(given)
    return np.nan_to_num(each.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def gap_trend(rows: Rows) -> Iterator[Finding]:
    """GAP_TREND: mean abs(engine log-probability - trainer's), step by step.

    Healthy runs stay flat near 0.01; from 0.05 on it warns and from 0.1 on it fails, also where it is
    flat. Warns when the last third of the steps is above 1.5 times the first, fails above 2 times and
    0.02: the engine samples from other weights, or from a stale cache. A gap that falls back at a restart
    says the same.
    """
    steps: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        engine, trainer = row.rollout.logprobs, row.rollout.trained_logprobs
        if not engine or not trainer or len(engine) != len(trainer):
            continue
        gaps = np.abs(np.asarray(engine, dtype=np.float64) - np.asarray(trainer, dtype=np.float64))
        gaps = gaps[np.isfinite(gaps)]
        if len(gaps):
            steps[row.rollout.step or 0].append(float(gaps.mean()))
    if not steps:
        return
    means = [fmean(steps[step]) for step in sorted(steps)]
    third = max(len(means) // 3, 1)
    first, last, highest = fmean(means[:third]), fmean(means[-third:]), max(means)
    pairs = zip(sorted(steps)[1:], means, means[1:], strict=False)
    drops = [step for step, before, after in pairs if before > 0.02 and after < before / 2]
    grown = highest if drops else last
    fell = f", falling back at step {', '.join(map(str, drops[:3]))}" if drops else ""
    yield _finding(
        "GAP_TREND",
        _level(grown, min(max(1.5 * first, 0.015), 0.05), min(max(2 * first, 0.02), 0.1)),
        f"engine and trainer differ by {first:.4f} nats a token at first and {grown:.4f} later "
        f"({len(means)} steps){fell}",
        "The engine does not sample from the weights that are trained: stale prefix or KV cache, or other "
        "kernels. This is no collapse of the policy.",
        "reset_prefix_cache after every weight update (D06); correct with truncated importance sampling.",
        "vllm-project/vime#64; NVIDIA-NeMo/RL PR 4018",
        first=first,
        last=last,
        highest=highest,
        drops=drops,
    )
