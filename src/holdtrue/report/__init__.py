"""The report: a run directory as one HTML page that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdtrue.errors import DataError
from holdtrue.report import figures, heat, wording
from holdtrue.report.page import render, shorten
from holdtrue.report.sources import Sources, facts, flatten, read_sources
from holdtrue.rundir import RunDir, disk_errors, write_text

_LONGEST_ANSWER = 1200


def write_report(run: RunDir) -> Path:
    """Write ``report.html`` from what the run directory holds, and return its path.

    The same files give the same bytes. What the run does not have yet, such as an evaluation, is said
    on the page instead.

    Raises:
        DataError: a file of the run is broken. ResourceError: the disk is full.
    """
    sources = read_sources(run)
    page = render(_contents(sources), _figures(sources))
    with disk_errors(run.report_file):
        write_text(run.report_file, page)
    return run.report_file


def _contents(sources: Sources) -> dict[str, Any]:
    evaluation = sources.evaluation
    try:
        results = [_section(row, index) for index, row in enumerate((evaluation or {}).get("results", []))]
    except KeyError as error:
        raise DataError(
            f"evaluation.json of {sources.name} does not say {error}, as one of another version of holdtrue; "
            f"remove it and measure again: holdtrue resume {sources.name}"
        ) from error
    return {
        "name": sources.name,
        "notes": wording.notes(sources.info, sources.metrics, evaluation),
        "results": results,
        "benchmarks": (evaluation or {}).get("benchmarks", []),
        "tiles": _tiles(sources, results[0]["result"] if results else None),
        "left_out": sources.left_out,
        "left_out_files": sources.left_out_files,
        "counted": bool(sources.info.get("data")),
        "settings": list(flatten(sources.settings)),
        "facts": list(facts(sources)),
    }


def _section(result: dict[str, Any], index: int) -> dict[str, Any]:
    slices = [(name, [(str(r["value"]), r) for r in rows]) for name, rows in result["slices"].items()]
    slices.append(("preferred answer's length", [(figures.length_words(r), r) for r in result["length_gap"]]))
    return {
        "id": f"data-{index + 1}",
        "result": result,
        "headline": wording.headline(result),
        "reading": wording.reading(result),
        "calibration": wording.calibration(result) if result["ece"] is not None else None,
        "single": list(wording.single_answers(result)),
        "aspects": _ranges(result["mistakes"]),
        "mistakes": [_mistake(row, result.get("explained")) for row in result["mistakes"]],
        "explained": heat.caption(result["explained"]) if result.get("explained") else None,
        "baselines": [(wording.BASELINES[name], row) for name, row in result["baselines"].items()],
        "best_of_n": wording.best_of_n(result["best_of_n"]) if result["best_of_n"] else None,
        "slices": slices,
        "slices_caption": wording.slices(result, sum(len(rows) for _, rows in slices), figures.MOST_SLICES),
    }


def _mistake(row: dict[str, Any], explained: Mapping[str, Any] | None) -> dict[str, Any]:
    """The row with its ``sides`` as they are shown: texts in coloured pieces, or in one without a colour."""
    texts = [shorten(row[side], _LONGEST_ANSWER) for side in ("chosen", "rejected")]
    colours = heat.draw(row, explained["how"], texts) if explained and "explanation" in row else None
    reasons = row["explanation"]["reasons"] if "explanation" in row else (None, None)
    plain = [[heat.Piece(text)] for text in texts]
    few = bool(explained and explained["how"] != "tokens")  # few enough to show their numbers
    sides = list(zip(colours["sides"] if colours else plain, reasons, strict=True))
    scale = colours["scale"] if colours else None
    return {"row": row, "scale": scale, "few": few, "sides": sides}


def _ranges(mistakes: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(aspect, lowest, highest value) among the mistakes shown, so that bars can be compared."""
    names = mistakes[0].get("aspects", {}) if mistakes else {}
    values = {name: [value for row in mistakes for value in row["aspects"][name]] for name in names}
    return [(name, min(found), max(found)) for name, found in values.items()]


def _figures(sources: Sources) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "loss": figures.curve(sources.metrics, "loss", "loss (nats)"),
        "accuracy": figures.curve(sources.metrics, "accuracy", "accuracy"),
    }
    for index, result in enumerate((sources.evaluation or {}).get("results", [])):
        for draw in figures.OF_A_RESULT:
            drawn[f"data-{index + 1}-{draw.__name__}"] = draw(result)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _tiles(sources: Sources, result: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """(label, value, small print) of the key numbers."""
    tiles = []
    if result and result["accuracy"] is not None:
        level = f"{100 * result['confidence']:g}% interval"
        name, rule = wording.strongest(result)
        tiles += [
            ("Accuracy", wording.percent(result["accuracy"]), f"{wording.span(result['interval'])}, {level}"),
            (
                "Best baseline",
                wording.percent(rule["accuracy"]),
                f"{wording.span(rule['interval'])}, {wording.BASELINES[name]}",
            ),
            ("Comparisons", f"{result['count']:,}", f"{wording.many(result['ties'], 'tie')} in reward"),
        ]
    if result and result["ece"] is not None:
        tiles.append(("Calibration error", f"{result['ece']:.3f}", f"log loss {result['loss']:.3f} nats"))
    if result and "position_consistency" in result:
        same = wording.percent(result["position_consistency"])
        tiles.append(("Same in both orders", same, "winner does not hang on the place"))
    info = sources.info
    train = (info.get("data") or {}).get("train") or {}
    unit = "comparisons" if train.get("comparisons") or "answers" not in train else "answers"
    if train.get(unit) is not None:
        prompts = f"from {wording.many(train['prompts'], 'prompt')}" if train.get("prompts") else ""
        tiles.append(("Trained on", f"{train[unit]:,}", f"{unit} {prompts}".strip()))
    if info.get("steps") is not None:
        best = f"best at step {info['best_step']:,}" if info.get("best_step") is not None else ""
        tiles.append(("Steps", f"{info['steps']:,}", best))
    if info.get("seconds") is not None:
        tiles.append(
            ("Time", wording.duration(info["seconds"]), (info.get("model") or {}).get("device") or "")
        )
    model = info.get("model") or {}
    if model.get("parameters") is not None:
        family = (model.get("architecture") or "").partition("For")[0]
        tiles.append(("Parameters", _compact(model["parameters"]), family))
    return tiles


def _compact(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
