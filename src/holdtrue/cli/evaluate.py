"""``holdtrue evaluate``: accuracy, calibration and slices of a model on preference pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.rundir import RunDir, disk_errors, find_model, read_json, write_json
from holdtrue.settings import EvaluationSettings

if TYPE_CHECKING:
    from holdtrue.cli.scoring import Judge


def command(
    model: frame.RunOrModel,
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Preference pairs or rated completions.")
    ],
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Break accuracy down by this column. Repeatable."),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option("--min-accuracy", min=0, max=1, metavar="X", help="Exit code 4 when accuracy is below."),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Measure accuracy and calibration on preference pairs, and best of n on rated answers.

    Accuracy counts every pair that raters decided (equal rewards one half), with an interval and beside what
    the longer answer, the shorter one and a bag of words (of a RUN) would reach. Prompts with three or more
    rated answers also give the rating of the best of n. The results of a RUN are kept in it and its report.
    """
    from rich.console import Group as Stacked

    from holdtrue.cli import scoring
    from holdtrue.evaluation.summary import render

    find_model(model)
    settings = frame.settings_from(
        [],
        format=format,
        columns=columns,
        flags={"evaluation.slices": slices, "evaluation.min_accuracy": min_accuracy},
        overrides=overrides,
    )
    judge, words = scoring.load(model, settings.data, trust_remote_code), _bag_of_words(model)
    results = [_measure(judge, path, settings.evaluation, words) for path in data]
    _keep(model, results)
    value = results[0] if len(results) == 1 else {"results": results}
    text = Stacked(*(render(result) for result in results))
    return frame.Result(value, text, frame.gate(results, settings.evaluation.min_accuracy))


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
    from holdtrue.evaluation import evaluate, require
    from holdtrue.reward.scorer import count_reasons

    groups, report = judge.read([path])
    require(groups, path)
    scored = list(judge.scorer.stream(groups))
    rewards = [item.rewards for item in scored]
    result = evaluate(groups, rewards, evaluation, path, count_reasons(scored), bag_of_words)
    return result | {"rejected": dict(report.rejected)}


def _keep(path: Path, results: list[dict[str, Any]]) -> None:
    """Put the results into the run's ``evaluation.json``, in place of older ones on the same data."""
    from holdtrue.report import write_report

    run = RunDir(path)
    if not run.settings_file.is_file() or not run.evaluation_file.is_file():
        return
    kept = read_json(run.evaluation_file)
    names = {result["data"] for result in results}
    kept["results"] = [r for r in kept["results"] if r["data"] not in names] + results
    with disk_errors(run.path):
        write_json(run.evaluation_file, kept)
        write_report(run)
