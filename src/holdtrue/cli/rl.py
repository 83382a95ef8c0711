"""``holdtrue rl``: a policy and a reward in, a run directory with the optimised policy out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from statistics import fmean
from typing import Annotated, Any

import typer

from holdtrue import settings as plain
from holdtrue.cli import frame, report, running
from holdtrue.errors import SettingsError
from holdtrue.rundir import RunDir

_MEASURES = ("reward", "kl", "length", "entropy")
_COUNTS = ("skipped", "unusable", "nan_rewards", "guarded", "alarms")


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SETTINGS.yaml|PROMPTS]...", help="Settings, and rows with prompts."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="The policy: model folder or run (policy.path)."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", metavar="PATH", help="Reward model, or function as file.py:name. Repeatable."
        ),
    ] = None,
    output: frame.Output = None,
    overrides: frame.Overrides = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, metavar="N", help="Processes on this machine.")
    ] = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result | None:
    """Optimise a policy against a reward model or a function.

    The run directory holds everything: settings, metrics, every rollout with its reward, alarms, checkpoints,
    the policy and report.html. Read the rollouts with "holdtrue doctor rollouts RUN". Interrupted runs go on
    with "holdtrue resume RUN".
    """
    given = arguments or []
    files = [one for one in given if one.lower().endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise SettingsError(f"only one settings file can be given, got {' and '.join(files)}")
    values = plain.read(files[0] if files else None)
    if prompts := [one for one in given if one not in files]:
        plain.put(values, "data.prompts", prompts)
    if path := frame.model_path(model):
        plain.put(values, "policy.path", path)
    if reward:
        from holdtrue.policy.settings import RewardSettings

        values["rewards"] = [RewardSettings.named(one).model_dump(exclude_unset=True) for one in reward]
    if processes:
        plain.put(values, "training.processes", processes)
    for override in overrides or ():
        plain.put(values, *plain.parse_override(override))
    if not (values.get("policy") or {}).get("path"):
        raise SettingsError("policy optimisation needs a policy: --model PATH of a causal LM")
    if output is None:
        raise SettingsError("say where the run goes: --output RUN")
    from holdtrue.policy import entry
    from holdtrue.policy.settings import build

    return carry(entry.start(build(values), output), trust_remote_code)


def carry(run: RunDir, trust_remote_code: bool) -> frame.Result | None:
    """Optimise a policy to the end of its run, here or in the processes its settings ask for, and return what
    came out."""
    from holdtrue.policy.run import optimise
    from holdtrue.policy.settings import build

    def train(stop: running.Stop) -> None:
        optimise(run, tell=Narrator(), stop=stop, trust_remote_code=trust_remote_code)

    processes = build(run.settings()).training.processes
    if not running.carried(run, processes, trust_remote_code, train):
        return None
    page = report.publish(run)
    value = _outcome(run) | {"report": str(page)}
    return frame.Result(value, "\n".join(_lines(value)))


def _outcome(run: RunDir) -> dict[str, Any]:
    """How the run ended, and its measures: ``first`` over the first tenth of the steps (of the reward before
    them, as on the page), ``last`` over the last tenth up to the policy that was kept."""
    from holdtrue.report.optimisation_course import Course

    course = Course(run)
    steps, ended = course.steps, course.ended
    ends = {"first": steps[: max(1, len(steps) // 10)], "last": course.window}
    value: dict[str, Any] = {"run": str(run.path), "model": str(run.model), **ended}
    for name in _MEASURES:
        value[name] = {when: _mean(part, name) for when, part in ends.items()}
    value["reward"] = {
        when: fmean(known) if known else None for when, known in zip(ends, course.rewards, strict=True)
    }
    value["reward_parts"] = {
        name: {when: _mean([row["reward_parts"] for row in part], name) for when, part in ends.items()}
        for name in (steps[-1]["reward_parts"] if steps else ())
    }
    evaluated = [row for row in course.evaluations if row["step"] == ended["kept"]["step"]]
    value["evaluation"] = evaluated[-1] if evaluated else None
    if course.info.get("critic"):
        value["explained_variance"] = {when: _mean(part, "explained_variance") for when, part in ends.items()}
    return value


def _lines(value: dict[str, Any]) -> Iterator[str]:
    for name in _MEASURES:
        if value[name]["last"] is not None:
            yield f"{name:<8} {_change(value[name])}"
    if (known := value.get("explained_variance")) and known["last"] is not None:
        yield f"critic   explains {_change(known)} of the variance of returns"
    parts = [f"{name} {_change(own)}" for name, own in value["reward_parts"].items()]
    if len(parts) > 1:
        yield f"parts    {', '.join(parts)}"
    if odd := [f"{value[name]:,} {name.replace('_', ' ')}" for name in _COUNTS if value[name]]:
        yield f"counted  {', '.join(odd)}"
    yield from (f"back     {row['text']}" for row in value["rollbacks"] if row["text"] != value["stopped"])
    if value["stopped"]:
        yield f"stopped  {value['stopped']}"
    if value["stopped_early"]:
        yield "stopped  early: the held-out score no longer rose (training.early_stopping_patience)"
    yield f"kept     step {value['kept']['step']} of {value['steps']}: {value['kept']['why']}"
    yield f"model    {value['model']}"
    yield f"report   {value['report']}"


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row.get(name) is not None]
    return sum(known) / len(known) if known else None


def _change(ends: dict[str, float | None]) -> str:
    return f"{running.number(ends['first'])} -> {running.number(ends['last'])}"


class Narrator:
    """Tells a run's rows on stderr, at most one step in five seconds where that is no terminal."""

    def __init__(self) -> None:
        self.console = frame.console(stderr=True)
        self._last = 0.0

    def __call__(self, row: dict[str, Any]) -> None:
        if row["event"] == "prepared":
            self._prepared(row)
        elif row["event"] == "alarm":
            self.console.print(f"alarm    {row['text']}")
        elif row["event"] == "rollback":
            self.console.print(f"back     {row['text']}")
        elif row["event"] == "eval":
            self.console.print(f"step {row['step']:>6}  held out  reward {running.number(row['reward'])}")
        elif sys.stderr.isatty() or time.monotonic() - self._last > 5 or row["step"] == row["steps"]:
            self._last = time.monotonic()
            drift = f"  KL {running.number(row['kl'])}" if "kl" in row else ""
            odd = f"  {row['excluded']} left out" if row["excluded"] else ""
            self.console.print(
                f"step {row['step']:>6}/{row['steps']}  reward {running.number(row['reward'])}{drift}  "
                f"length {row['length']:.1f}{odd}  {row['seconds_step']:.2f} s"
            )

    def _prepared(self, info: dict[str, Any]) -> None:
        policy, data = info["policy"], info["data"]
        part = "" if policy["trainable"] == policy["parameters"] else f" ({policy['trainable']:,} trained)"
        lost = ", ".join(f"{count:,} {reason}" for reason, count in data["left_out"].items()) or "nothing"
        if files := info["left_out_files"]:
            lost += f" (see {', '.join(files)})"
        self.console.print(
            f"policy   {policy['architecture']}, {policy['parameters']:,} parameters{part}, "
            f"{policy['device']}"
        )
        if critic := info.get("critic"):
            why = f" ({critic['why']})" if critic["why"] else ""
            self.console.print(f"critic   from {critic['start']}{why}, {critic['parameters']:,} parameters")
        self.console.print(f"prompts  {data['prompts']:,}, held out {data['held_out']:,}; left out: {lost}")
