"""An evaluation as a reader of a terminal wants it."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

_MOST_ROWS = 12
_ASPECT_NUMBERS = ("mse", "pearson", "spearman")


def render(result: dict[str, Any], *, slices: bool = True) -> Group:
    """One result of :func:`holdtrue.evaluation.evaluate` for a terminal: key numbers, then the slices."""
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(style="dim")
    numbers.add_column()
    for label, value in _numbers(result):
        numbers.add_row(label, Text(value))
    parts = [_aspects(result["aspects"])] if result.get("aspects") else []
    parts += [_slices(result["slices"])] if slices and result["slices"] else []
    return Group(Text(_plain(result["data"]), style="bold"), numbers, *parts)


def render_benchmark(result: dict[str, Any]) -> Group:
    """One result of :meth:`holdtrue.evaluation.benchmarks.Benchmark.score` for a terminal."""
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(style="dim")
    numbers.add_column()
    rows = [
        ("score", f"{_rate(result, 'score')}, {result['interval_method']}"),
        ("items", f"{result['count']} of {result['prompts']} prompts"),
        ("equal rewards", f"{result['ties']} of {result['count']} items. {result['tie_rule']}"),
    ]
    if result["unscored_items"]:
        rows.append(
            ("no reward", f"{result['unscored_items']} of {result['count']} items. {result['unscored_rule']}")
        )
        rows += [("", f"{count} answers: {_plain(reason)}") for reason, count in result["unscored"].items()]
    rows += [
        ("not read", f"{count} rows: {_plain(reason)}")
        for reason, count in result.get("rejected", {}).items()
    ]
    if result["missing"]:
        names = ", ".join(result["missing"])
        rows.append(("missing", f"{names}: without them the score is not the published one"))
    for label, value in rows:
        numbers.add_row(label, Text(value))
    return Group(Text(result["benchmark"], style="bold"), numbers, _parts(result), *_details(result))


def _parts(result: dict[str, Any]) -> Table:
    """Sections, each followed by its subsets; a section that is one subset of its name is one row."""
    table = Table("section", "subset", box=None, header_style="dim", pad_edge=False)
    for heading in ("items", "score", "interval"):
        table.add_column(heading, justify="right")
    for section in result["sections"]:
        subsets = [row for row in result["subsets"] if row["section"] == section["name"]]
        inner = [] if [row["name"] for row in subsets] == [section["name"]] else subsets
        for name, subset, row in [(section["name"], "", section), *(("", row["name"], row) for row in inner)]:
            low, high = row["interval"]
            table.add_row(name, subset, str(row["count"]), f"{row['score']:.1%}", f"{low:.1%} – {high:.1%}")
    return table


def _details(result: dict[str, Any]) -> list[Table]:
    if not result["details"]:
        return []
    parts = list(next(iter(result["details"].values())))
    table = Table("section", box=None, header_style="dim", pad_edge=False)
    for part in parts:
        table.add_column(part, justify="right")
    for section, values in result["details"].items():
        table.add_row(section, *(f"{values[part]:.3f}" for part in parts))
    return [table]


def _numbers(result: dict[str, Any]) -> list[tuple[str, str]]:
    best = result["best_of_n"]
    rows = _accuracy(result)
    if best is not None:
        rows.append(("best of n", _best_of_n(best)))
    rows += _single_answers(result)
    if result["label_ties"]:
        rows.append(("tied by raters", f"{result['label_ties']}, not in the accuracy"))
    if result["unscored_comparisons"]:
        rows.append(("left out", f"{result['unscored_comparisons']} comparisons without both rewards"))
        rows += [("", f"{count} answers: {_plain(reason)}") for reason, count in result["unscored"].items()]
    if result["ece"] is not None:
        rows.append(("calibration", f"error (ECE) {result['ece']:.3f}, log loss {result['loss']:.3f} nats"))
    if result["temperature"] is not None:
        bound = ", at the end of the range: no finite one fits best" if result["temperature_bounded"] else ""
        rows.append(("temperature", f"{result['temperature']:.3g}{bound}"))
    return rows


def _aspects(aspects: dict[str, dict[str, Any]]) -> Table:
    table = Table("aspect", box=None, header_style="dim", pad_edge=False)
    for heading in ("answers", "mse", "pearson", "spearman", "pairs", "accuracy", "alpha"):
        table.add_column(heading, justify="right")
    for name, row in aspects.items():
        numbers = [f"{row[key]:.3g}" if row.get(key) is not None else "" for key in _ASPECT_NUMBERS]
        accuracy = f"{row['accuracy']:.1%}" if row.get("accuracy") is not None else ""
        alpha = f"{row['alpha']:g}" if "alpha" in row else ""
        counts = [str(row.get(key, 0)) for key in ("count", "pairs")]
        table.add_row(Text(_plain(name)), counts[0], *numbers, counts[1], accuracy, alpha)
    return table


def _single_answers(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if (labels := result["labels"]) is not None:
        auc = "one class only" if labels["auc"] is None else f"AUC {_span(labels, 'auc')}"
        right = f"right at 0 {labels['right_at_zero']:.1%}"
        rows.append(("labels", f"{auc}, {right}, {labels['good']} good of {labels['count']}"))
    if (steps := result.get("steps")) is not None:
        auc = "one class only" if steps["auc"] is None else f"AUC {_span(steps, 'auc')}"
        right = f"right at 0 {steps['right_at_zero']:.1%}"
        rows.append(("steps", f"{auc}, {right}, {steps['right_steps']} right of {steps['count']}"))
    if (ratings := result["ratings"]) is not None:
        names = ("pearson", "spearman", "within_prompts")
        found = [
            f"{name.replace('_', ' ')} {ratings[name]:.3f}" for name in names if ratings[name] is not None
        ]
        rows.append(
            ("ratings", ", ".join([*found, f"RMSE {ratings['rmse']:.3g}", f"{ratings['count']} answers"]))
        )
    return rows


def _span(values: dict[str, Any], name: str) -> str:
    low, high = values[f"{name}_interval"]
    return f"{values[name]:.3f} ({low:.3f} – {high:.3f})"


def _slices(slices: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table("slice", "value", box=None, header_style="dim", pad_edge=False)
    for heading in ("comparisons", "accuracy", "interval"):
        table.add_column(heading, justify="right")
    for column, rows in slices.items():
        for index, row in enumerate(rows[:_MOST_ROWS]):
            low, high = row["interval"]
            table.add_row(
                Text(_plain(column) if index == 0 else ""),
                Text(_plain(row["value"])),
                str(row["count"]),
                f"{row['accuracy']:.1%}",
                f"{low:.1%} – {high:.1%}",
            )
        if len(rows) > _MOST_ROWS:
            table.add_row("", f"… {len(rows) - _MOST_ROWS} more values", "", "", "")
    return table


def _accuracy(result: dict[str, Any]) -> list[tuple[str, str]]:
    compared = result["count"] or result["label_ties"] or result["unscored_comparisons"]
    if not compared and any(result.get(name) for name in ("labels", "ratings", "steps", "aspects")):
        return []  # the data compares nothing, and was not meant to
    if result["accuracy"] is None:
        rows = [("accuracy", "not measured: no decided comparison has a reward on both sides")]
    else:
        rows = [("accuracy", f"{_rate(result, 'accuracy')}, {result['interval_method']}")]
        rows += _baselines(result)
    if "position_consistency" in result:
        rows.append(("position", f"{result['position_consistency']:.1%} have the same winner in both orders"))
    ties = f"{result['ties']} with equal rewards (count half)"
    return [*rows, ("comparisons", f"{result['count']} of {result['prompts']} prompts, {ties}")]


def _baselines(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, row in result["baselines"].items():
        if row["accuracy"] is not None:
            text = _rate(row | {"confidence": result["confidence"]}, "accuracy")
            if row.get("pairs") is not None:
                text += f", fitted on {row['pairs']} of {row['of']} training pairs"
            rows.append((name.replace("_", " "), text))
        elif row.get("reason"):
            rows.append((name.replace("_", " "), f"not measured: {row['reason']}"))
    return rows


def _best_of_n(best: dict[str, Any]) -> str:
    last = best["curve"][-1]
    bounds = "" if last["interval"] is None else " ({:.3g} – {:.3g})".format(*last["interval"])
    left_out = f", {best['left_out']} with fewer left out" if best["left_out"] else ""
    return (
        f"of {last['n']}, its pick is rated {last['rating']:.3g}{bounds}; the best {last['oracle']:.3g}, "
        f"a random one {last['random']:.3g}, the longest {last['longest']:.3g} "
        f"({best['groups']} lists of {best['prompts']} prompts{left_out})"
    )


def _rate(row: dict[str, Any], value: str) -> str:
    low, high = row["interval"]
    return f"{row[value]:.1%} ({row['confidence']:.0%} interval {low:.1%} – {high:.1%})"


def _plain(text: str) -> str:
    """Text without characters that could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
