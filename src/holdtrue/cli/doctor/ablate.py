"""``holdtrue doctor ablate``: which fix helps, measured on the model's own answers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, SettingsError, unknown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdtrue.experiments.rerolls import Variant

BASE = "as it is"


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPTS...", help="Files of prompts or rollouts.")],
    fixes: Annotated[
        list[str] | None,
        typer.Option(
            "--fix",
            metavar="NAME",
            help="ban_control, early_abort, temperature=T, or the id of a finding of doctor check (T01). "
            "With --train also a data remedy, or a setting of holdtrue sft (training.learning_rate=1e-6). "
            "Repeatable; all that apply to the model as it is by default.",
        ),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option("--train", metavar="FILE", help="Fine-tune the model on these rows first. Repeatable."),
    ] = None,
    overrides: frame.Overrides = None,
    answers: Annotated[int, typer.Option("--answers", min=1, help="Answers to each prompt.")] = 4,
    most: Annotated[int, typer.Option("--prompts", min=2, help="How many prompts, the first.")] = 64,
    tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, help="Of all draws.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all draws.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write transcripts of each fix."),
    ] = None,
) -> frame.Result:
    """Answer the same prompts with one fix at a time, and show what each changes.

    Fixes of decoding are tried on the model as it is; a finding's id tries the corrected copy that doctor fix
    would write. With --train the model is fine-tuned first (--set as of holdtrue sft), and again for each
    data remedy and setting. Differences of the share of degenerate answers are paired by prompt, with 95 %
    intervals.
    """
    from holdtrue.experiments.rerolls import compare, reroll

    if overrides and not train:
        raise SettingsError(f"--set {overrides[0]} is of the training; give it with --train FILE")
    asked, unreadable = _prompts(prompts)
    asked = asked[:most]
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(model, train or [], overrides or [], Path(folder))
        start = trainer.trained(BASE) if train else model
        variants, refused = _variants(start, fixes, tokens, temperature, trainer)
        found = reroll(asked, variants, group=answers, seed=seed, progress=_say)
    rows = [compare(found[0], one) for one in found]
    if output is not None:
        _write(output, found)
    value = {"prompts": len(asked), "answers": answers, "variants": rows, "refused": refused}
    value["unreadable"] = dict(unreadable)
    return frame.Result(value, render(value))


def _say(name: str) -> None:
    print(f"answering: {name}", file=sys.stderr)


def _prompts(files: Sequence[str]) -> tuple[list[Any], Counter[str]]:
    """The different prompts of rows of any layout, and why other rows have none.

    Rollouts, preferences, or ``prompt`` alone.
    """
    import hashlib

    from holdtrue.data.fields import BadRow, content
    from holdtrue.data.files import resources, rows

    found: dict[str, Any] = {}
    lost: Counter[str] = Counter()
    for file in resources(files):
        for row in rows(file, hashlib.sha256()):
            reason = row.fault.reason if row.fault else "no prompt"
            for column in ("prompt", "instruction", "question", "input"):
                if row.value and row.value.get(column):
                    try:
                        prompt = content(row.value, column)
                    except BadRow as fault:
                        reason = fault.reason
                        continue
                    found.setdefault(str(prompt), prompt)
                    break
            else:
                lost[reason] += 1
    if not found:
        raise DataError(f"no prompts in {', '.join(files)}; a row has prompt (text or messages)")
    return list(found.values()), lost


@dataclass(frozen=True)
class _Trainer:
    """Fine-tunes the model once more for each fix, everything else equal."""

    model: Path
    data: Sequence[str]
    overrides: Sequence[str]
    folder: Path

    def trained(self, name: str, *, data: Sequence[str] | None = None, setting: str | None = None) -> Path:
        """The folder of the policy that came out."""
        from holdtrue import job
        from holdtrue.policy import sft, sft_settings

        print(f"training: {name}", file=sys.stderr)
        changed = [*self.overrides, *([setting] if setting else [])]
        values = frame.values_from(data or self.data, model=str(self.model), flags={}, overrides=changed)
        run = job.begin(sft_settings.build(values), self.folder / f"train {name}".replace("/", "_"))
        sft.train(run)
        return run.model

    def remedied(self, name: str) -> Path:
        """Trained on the rows that a data remedy leaves."""
        from holdtrue.cli.doctor.fix import remedied_rows

        rows, _ = remedied_rows(self.data, [name])
        file = self.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows or ()), encoding="utf-8")
        return self.trained(name, data=[str(file)])


def _variants(
    model: Path, names: Sequence[str] | None, tokens: int, temperature: float, trainer: _Trainer
) -> tuple[list[Variant], dict[str, str]]:
    """The model as it is, then one variant for each fix; with the fixes that do not apply, and why."""
    from holdtrue.cli.doctor import check
    from holdtrue.doctor import fixes
    from holdtrue.doctor.prescription import every_remedy
    from holdtrue.experiments.rerolls import Variant
    from holdtrue.policy.decoding import Decoding

    plain = Decoding(max_new_tokens=tokens, temperature=temperature, control="keep", loop=None)
    result = [Variant(BASE, model, plain)]
    refused: dict[str, str] = {}
    subject, _ = check.subject(model, None, [], None, frozenset())
    diagnosis = check.examine(subject)
    remedies = [one.name() for one in every_remedy() if one.where == "data"]
    mendable = list(fixes.plan(subject, diagnosis).done)
    for name in ["ban_control", "early_abort", *mendable] if names is None else names:
        if name == "ban_control":
            result.append(Variant(name, model, plain.model_copy(update={"control": "ban"})))
        elif name == "early_abort":
            loop = Decoding.model_fields["loop"].default
            result.append(Variant(name, model, plain.model_copy(update={"loop": loop})))
        elif name.startswith("temperature="):
            result.append(Variant(name, model, plain.model_copy(update={"temperature": _number(name)})))
        elif name in {one.id for one in diagnosis.findings}:
            only = type(diagnosis)(tuple(one for one in diagnosis.findings if one.id == name))
            plan = fixes.plan(subject, only)
            if not plan.done:
                refused[name] = {**plan.to_apply, **plan.by_hand}.get(name, "nothing is wrong there")
                continue
            fixes.write(subject, plan, trainer.folder / name)
            result.append(Variant(name, trainer.folder / name, plain))
        elif not trainer.data and (name in remedies or "=" in name):
            raise SettingsError(f"fix {name} changes the training; it needs --train FILE")
        elif name in remedies:
            result.append(Variant(name, trainer.remedied(name), plain))
        elif "=" in name:
            result.append(Variant(name, trainer.trained(name, setting=name), plain))
        else:
            known = ["ban_control", "early_abort", "temperature=0.7", *mendable]
            known += remedies if trainer.data else []
            raise SettingsError(unknown("fix", name, known))
    return result, refused


def _number(name: str) -> float:
    text = name.partition("=")[2]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise SettingsError(f"temperature is a number above 0, got {text!r}")
    return value


def _write(output: Path, found: Sequence[Any]) -> None:
    from holdtrue.doctor.causes import rank
    from holdtrue.report.rollouts import write_rollouts_report

    for one in found:
        value = one.examination.as_json() | {
            "causes": rank(one.examination),
            "remedies": [],
            "chains": [],
            "unreadable": {},
            "notes": [],
        }
        name = one.variant.name.replace(" ", "_").replace("=", "_")
        write_rollouts_report(output / f"{name}.html", value, [row.rollout for row in one.examination.rows])


def render(value: dict[str, Any]) -> RenderableType:
    """A row for each fix."""
    from rich.console import Group

    cells = []
    for one in value["variants"]:
        low, high = one["interval"]
        first, last = one["difference_interval"]
        same = one["variant"] == BASE
        cells.append(
            (
                one["variant"],
                one["degenerate"],
                f"{one['rate']:.1%} ({low:.1%} to {high:.1%})",
                "" if same else f"{100 * one['difference']:+.1f} ({100 * first:+.1f} to {100 * last:+.1f})",
                "" if same else f"{one['mended']} mended, {one['broken']} broken",
                f"{one['tokens']:.0f}",
            )
        )
    heads = ["fix", "degenerate", "rate", "difference (points)", "answers", "mean tokens"]
    parts: list[Any] = [f"{value['prompts']} prompts x {value['answers']} answers", frame.table(heads, cells)]
    parts += [f"not read: {count:,} rows, {reason}" for reason, count in value["unreadable"].items()]
    parts += [f"not tried: {name}: {why}" for name, why in value["refused"].items()]
    return Group(*parts)
