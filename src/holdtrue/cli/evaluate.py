"""``holdtrue evaluate``: accuracy, calibration and slices of a model on preference pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.rundir import RunDir, disk_errors, find_model, read_json, write_json
from holdtrue.settings import DataSettings, EvaluationSettings


def command(
    model: frame.RunOrModel,
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Preference pairs.")],
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
    """Measure accuracy and calibration on preference pairs.

    Accuracy counts every pair that raters decided (equal rewards one half), with an interval and beside
    what "the longer answer wins" would reach. The results of a RUN are kept in it and appear in its report.
    """
    from rich.console import Group as Stacked

    from holdtrue.evaluation.summary import render
    from holdtrue.reward import store
    from holdtrue.reward.scorer import RewardScorer
    from holdtrue.training.distributed import default_device

    folder = find_model(model)
    settings = frame.settings_from(
        [],
        format=format,
        columns=columns,
        flags={"evaluation.slices": slices, "evaluation.min_accuracy": min_accuracy},
        overrides=overrides,
    )
    loaded = store.load_trained(folder, device=default_device(), trust_remote_code=trust_remote_code)
    rows = settings.data
    if loaded.card is not None and "plain_text" not in rows.model_fields_set:
        rows = rows.model_copy(update={"plain_text": loaded.card.plain_text})
    scorer = RewardScorer(loaded)
    results = [_measure(scorer, path, rows, settings.evaluation) for path in data]
    _keep(model, results)
    value = results[0] if len(results) == 1 else {"results": results}
    text = Stacked(*(render(result) for result in results))
    return frame.Result(value, text, frame.gate(results, settings.evaluation.min_accuracy))


def _measure(scorer: Any, path: str, data: DataSettings, evaluation: EvaluationSettings) -> dict[str, Any]:
    from holdtrue.data.splits import read_groups
    from holdtrue.evaluation import evaluate
    from holdtrue.reward.scorer import count_reasons, position_consistency

    groups, report = read_groups([path], data, None)
    scored = list(scorer.stream(groups))
    rewards = [item.rewards for item in scored]
    result = evaluate(groups, rewards, evaluation, path, count_reasons(scored))
    return result | position_consistency(scored) | {"rejected": dict(report.rejected)}


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
