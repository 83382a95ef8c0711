"""A policy, or two, judged on prompts they were never trained on, end to end.

    prompts -> answers of each policy -> rewards by each judge, the doctor's detectors -> numbers, a folder

evaluation.json   what is returned        rollouts.jsonl   every answer with its rewards
report.html       the same to read, with transcripts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from holdtrue.doctor import rollouts as doctor
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import SettingsError
from holdtrue.evaluation import slices
from holdtrue.evaluation.answers import Answers, Measures, examples
from holdtrue.policy.evaluation import (
    Floats,
    PolicyEvaluationSettings,
    ask,
    draw,
    enter,
    judged,
)
from holdtrue.policy.journal import as_row, finite
from holdtrue.policy.lineage import Lineage
from holdtrue.policy.rewards import open_judge
from holdtrue.policy.settings import RewardSettings
from holdtrue.records import Rollout
from holdtrue.report.policy_evaluation import write_policy_report
from holdtrue.reward.adapters import base_of
from holdtrue.reward.folders import compares
from holdtrue.reward.store import has_tokenizer
from holdtrue.rundir import disk_errors, find_model, require_empty, write_json, write_jsonl
from holdtrue.training.distributed import default_device

_SHOWN, _AT_RANDOM = 12, 4
"""Transcripts on the page."""


def evaluate_policies(
    policies: Sequence[str],
    judges: Sequence[str],
    settings: PolicyEvaluationSettings,
    lineages: Sequence[Lineage],
    *,
    output: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Let one policy or two answer prompts, and measure the answers. Deterministic but for seconds.

    Args:
        policies: runs, model folders or adapters; the first is compared with the second.
        judges: reward models, or functions as ``file.py:name``, each measured by itself.
        lineages: what each policy was trained on.
        output: a new folder for answers, numbers and the page.
        tell: gets lines on how far it is.

    Returns:
        One JSON object: what :meth:`~holdtrue.evaluation.answers.Measures.evaluate` returns, with
        ``seconds_per_answer`` of each policy, ``judges``, ``data``, ``prompts``, ``group``, ``left_out``
        (reason -> prompts), ``notes``, ``decoding``, ``seed``, ``confidence``, ``success`` and ``output``.

    Raises:
        SettingsError: a judge that compares and one policy, a name twice, or an output that is not empty.
        HoldtrueError: something is wrong with a policy, a judge or the prompts.
    """
    comparing = _check(policies, judges, output)
    device = default_device()
    opened = {name: open_judge(RewardSettings.named(name), device, trust_remote_code) for name in judges}
    contestants = [enter(name, settings.decoding, device, trust_remote_code) for name in policies]
    asked = ask(settings, contestants, lineages)
    columns = [group.meta for group in asked.prompts]
    parts = slices.split(columns, settings.slices, [key for row in columns for key in row])
    tell(f"prompts  {len(asked.prompts):,} of {', '.join(settings.data.prompts)}")
    drawn, seconds = draw(asked, contestants, settings, tell)
    rewards = {name: judged(judge, drawn, settings.group) for name, judge in opened.items()}
    answers, kept = [], []
    vocabularies = [_vocabulary(one.folder) for one in contestants]
    for k, (one, vocabulary) in enumerate(zip(contestants, vocabularies, strict=True)):
        own = {name: found[k] for name, found in rewards.items()}
        kept.append(_with_rewards(drawn[k], own))
        answers.append(_answers(one.name, kept[k], own, vocabulary))
    unknown = [name for name, vocabulary in zip(policies, vocabularies, strict=True) if vocabulary is None]
    measures = Measures(settings.confidence, settings.success, comparing)
    found = measures.evaluate(answers, parts)
    for row, spent in zip(found["policies"], seconds, strict=True):
        row["seconds_per_answer"] = spent / row["answers"]
    value: dict[str, Any] = finite(
        {
            "judges": list(judges),
            "data": settings.data.prompts,
            "prompts": len(asked.prompts),
            "group": settings.group,
            "left_out": asked.left_out,
            "notes": list(_notes(settings, lineages, unknown)),
            **found,
            "decoding": settings.decoding.model_dump(mode="json"),
            "plain_text": settings.data.plain_text,
            "seed": settings.seed,
            "confidence": settings.confidence,
            "success": settings.success,
            "output": None if output is None else str(output),
        }
    )
    if output is not None:
        _write(output, value, kept, answers, judges[0])
    return value


def _check(policies: Sequence[str], judges: Sequence[str], output: Path | None) -> frozenset[str]:
    """The judges that compare; refuses what cannot be done before anything is loaded."""
    for names in (policies, judges):
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"{name} is given twice")
    models = [name for name in judges if RewardSettings.named(name).model is not None]
    comparing = frozenset(name for name in models if compares(find_model(name)))
    if comparing and len(policies) == 1:
        raise SettingsError(
            f"{min(comparing)} compares answers and says nothing of one alone; name the policy to compare "
            "with: --against POLICY"
        )
    if output is not None:
        require_empty(output)
    return comparing


def _notes(
    settings: PolicyEvaluationSettings, lineages: Sequence[Lineage], unknown: Sequence[str]
) -> Iterator[str]:
    """What a reader has to know; ``unknown`` are policies without a vocabulary at hand."""
    yield from dict.fromkeys(note for one in lineages for note in one.notes)
    if settings.decoding.control == "ban":
        yield (
            "Control tokens were banned while drawing, so a habit of writing them does not show; "
            "--set decoding.control=keep shows it."
        )
    for name in unknown:
        yield f"{name} is no folder here: the doctor looked for control tokens in its texts alone."


def _vocabulary(folder: str) -> Vocabulary | None:
    """Of the tokenizer in a policy's folder, or in its base's; None for a name on the hub."""
    own = folder if has_tokenizer(folder) else base_of(folder) or folder
    return Vocabulary.of(own) if Path(own).is_dir() else None


def _answers(
    policy: str, rollouts: Sequence[Rollout], rewards: Mapping[str, Floats], vocabulary: Vocabulary | None
) -> Answers:
    """Columns of a policy's answers, what the doctor's detectors fail in them included."""
    shape = next(iter(rewards.values())).shape
    found = doctor.examine(rollouts, vocabulary)
    blind = {name for name, one in found.skipped.items() if one["rows"] == len(rollouts)}
    looked = [one.name() for one in doctor.every_detector() if one.name() not in blind]
    return Answers(
        policy=policy,
        rewards=rewards,
        lengths=np.array([len(row.completion_ids or ()) for row in rollouts], float).reshape(shape),
        finish=np.array([row.finish for row in rollouts]).reshape(shape),
        flags={
            name: np.array([doctor.fails(row, name) for row in found.rows]).reshape(shape)
            for name in (doctor.DEGENERATE, *looked)
        },
    )


def _with_rewards(rollouts: Sequence[Rollout], rewards: Mapping[str, Floats]) -> list[Rollout]:
    """The rollouts with the first judge's reward, and every judge's under ``by_judge``."""
    first = next(iter(rewards.values())).ravel()
    result = []
    for n, row in enumerate(rollouts):
        each = {name: float(values.ravel()[n]) for name, values in rewards.items()}
        result.append(replace(row, reward=float(first[n]), meta={**row.meta, "by_judge": each}))
    return result


def _write(
    output: Path, value: dict[str, Any], kept: list[list[Rollout]], answers: Sequence[Answers], judge: str
) -> None:
    ranked, others = examples(answers, judge, _SHOWN, _AT_RANDOM)
    group = value["group"]
    shown = [[own[p * group + g] for own in kept] for p, g in [*ranked, *others]]
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        write_jsonl(output / "rollouts.jsonl", (as_row(row) for own in kept for row in own))
        write_json(output / "evaluation.json", value)
        write_policy_report(output / "report.html", value, shown, len(ranked))
