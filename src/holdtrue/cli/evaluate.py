"""``holdtrue evaluate``: a reward model on preference pairs or a benchmark, or a policy on prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, SettingsError
from holdtrue.rundir import RunDir, disk_errors, read_object, write_json
from holdtrue.settings import EvaluationSettings

if TYPE_CHECKING:
    from holdtrue.cli.scoring import Judge


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL", help="Run or model folder; with --policy also a function, file.py:name."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA...", help="Preference pairs, a benchmark's rows, or prompts."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="PATH", help="Judge this policy: a run or folder of a causal LM."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="PATH", help="Another policy, answering the same prompts."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", metavar="PATH", help="A further judge of policies, as RUN|MODEL. Repeatable."
        ),
    ] = None,
    group: Annotated[
        int | None, typer.Option("--group", min=1, metavar="N", help="Answers to each prompt (1).")
    ] = None,
    success: Annotated[
        float | None,
        typer.Option("--success", metavar="X", help="Count answers with this reward or more as a success."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, metavar="N", help="Seed of the answers (42).")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Keep a policy's answers, numbers and page."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", metavar="NAME", help="Score by a published rule (holdtrue list benchmarks)."
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Break results down by this column. Repeatable."),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-accuracy", min=0, max=1, metavar="X", help="Exit code 4 when accuracy (score) is below."
        ),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Measure a reward model on preference data, or a policy on prompts.

    Of a reward model accuracy and calibration on preference pairs, and best of n on rated answers. Accuracy
    counts every pair that raters decided (equal rewards one half), with an interval and beside what
    the longer answer, the shorter one and a bag of words (of a RUN) would reach. Prompts with three or more
    rated answers also give the rating of the best of n. The results of a RUN are kept in it and its report.

    With ``--benchmark`` all DATA together are the rows of a published benchmark and get its score. Without
    DATA its rows are read from the hub, where it has a place for them.

    With ``--policy`` DATA are prompts. The policy answers those it was not trained on, and RUN|MODEL, any
    reward model or a function ``f(prompts, texts, completion_ids)``, judges the answers: mean reward, length,
    ends and the doctor's findings, each with an interval; with ``--against`` also who wins. Answers are drawn
    as in the policy's run, else by ``--set decoding.max_new_tokens=128`` and the like.
    """
    flags = {"group": group, "success": success, "seed": seed}
    if policy is not None:
        _refuse(
            "measures a reward model and does not go with --policy",
            {"benchmark": benchmark, "min-accuracy": min_accuracy, "format": format, "column": columns},
        )
        from holdtrue.cli import policies

        return policies.evaluate(
            [policy, *([against] if against is not None else [])],
            [model, *(reward or [])],
            {"data.prompts": data or [], "slices": slices, **flags},
            overrides or [],
            output,
            trust_remote_code,
        )
    _refuse("needs a --policy", {"against": against, "reward": reward, "output": output, **flags})
    from rich.console import Group as Stacked

    from holdtrue.cli import scoring
    from holdtrue.evaluation.summary import render, render_benchmark

    settings = frame.settings_from(
        [],
        format=format,
        columns=columns,
        flags={"evaluation.slices": slices, "evaluation.min_accuracy": min_accuracy},
        overrides=overrides,
    )
    chosen = _chosen(benchmark, data or [], settings.evaluation)
    judge = scoring.load(Path(model), settings.data, trust_remote_code)
    if chosen is not None:
        result = _run_benchmark(judge, chosen, data or [], settings.evaluation)
        _keep(Path(model), "benchmarks", "benchmark", [result])
        code = frame.gate([{"accuracy": result["score"]}], settings.evaluation.min_accuracy)
        return frame.Result(result, render_benchmark(result), code)
    words = _bag_of_words(Path(model))
    results = [_measure(judge, path, settings.evaluation, words) for path in data or []]
    _keep(Path(model), "results", "data", results)
    value = results[0] if len(results) == 1 else {"results": results}
    text = Stacked(*(render(result) for result in results))
    return frame.Result(value, text, frame.gate(results, settings.evaluation.min_accuracy))


def _refuse(why: str, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if value not in (None, []):
            raise SettingsError(f"--{name} {why}")


def _bag_of_words(path: Path) -> Any:
    """The run's baseline, or why there is none."""
    from holdtrue.evaluation.bag_of_words import BagOfWords

    run = RunDir(path)
    if not run.settings_file.is_file():
        return "a model folder does not hold one, the run it is from does"
    if not run.bag_of_words_file.is_file():
        return f"{run.bag_of_words_file.name} is not in the run"
    return BagOfWords.load(run.bag_of_words_file)


def _measure(judge: Judge, path: str, evaluation: EvaluationSettings, bag_of_words: Any) -> dict[str, Any]:
    from holdtrue import job
    from holdtrue.data.splits import read_groups

    groups, report = read_groups([path], judge.data, None)
    if not any(group.comparisons for group in groups) and not any(
        answer.ratings or answer.steps or answer.label is not None
        for group in groups
        for answer in group.answers
    ):
        answers = sum(len(group.answers) for group in groups)
        raise DataError(
            f"{path} holds {answers} answers but no comparison, rating, label or judged step to evaluate on; "
            "use `holdtrue score`"
        )
    result, _ = job.measure(judge.scorer, groups, evaluation, path, bag_of_words)
    return result | {"rejected": dict(report.rejected)}


def _chosen(name: str | None, data: list[str], evaluation: EvaluationSettings) -> Any:
    """The benchmark of that name, and that the arguments make sense with it, or without one."""
    from holdtrue import kinds
    from holdtrue.evaluation.benchmarks import FAMILY

    if name is None:
        if not data:
            raise SettingsError("nothing to evaluate on: give DATA, or --benchmark NAME")
        return None
    if evaluation.slices:
        raise SettingsError("--slice is for plain data; a benchmark has subsets of its own")
    found: Any = kinds.load(FAMILY, name)()
    if not data and found.hub is None:
        raise SettingsError(
            f"benchmark {name} has no place on the hub that could be read: give its files as DATA"
        )
    return found


def _run_benchmark(
    judge: Judge, benchmark: Any, paths: list[str], evaluation: EvaluationSettings
) -> dict[str, Any]:
    from holdtrue.data.files import HUB
    from holdtrue.data.reader import Reader
    from holdtrue.reward.scorer import count_reasons

    data, paths = judge.data, paths or [f"{HUB}{benchmark.hub}"]
    only = benchmark.layouts[0] if len(benchmark.layouts) == 1 else None
    reader = Reader(
        paths,
        format=data.format or only,
        columns=data.columns,
        on_bad_row=data.on_bad_row,
        plain_text=data.plain_text,
    )
    groups = list(reader)
    reader.report.require_rows()
    benchmark.check(groups)
    scored = list(judge.scorer.stream(groups))
    rewards = [item.rewards for item in scored]
    result: dict[str, Any] = benchmark.score(groups, rewards, count_reasons(scored), evaluation.confidence)
    return result | {"data": paths, "rejected": dict(reader.report.rejected)}


def _keep(path: Path, key: str, name: str, results: list[dict[str, Any]]) -> None:
    """Put the results under ``key`` of the run's ``evaluation.json``, in place of older ones of that name."""
    from holdtrue.report import write_report

    run = RunDir(path)
    if not run.settings_file.is_file() or not run.evaluation_file.is_file():
        return
    kept = read_object(run.evaluation_file)
    names = {result[name] for result in results}
    kept[key] = [result for result in kept.get(key, []) if result[name] not in names] + results
    with disk_errors(run.path):
        write_json(run.evaluation_file, kept)
        write_report(run)
