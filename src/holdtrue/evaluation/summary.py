"""An evaluation as a reader of a terminal wants it."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

_MOST_ROWS = 12


def render(result: dict[str, Any], *, slices: bool = True) -> Group:
    """One result of :func:`holdtrue.evaluation.evaluate` for a terminal: key numbers, then the slices."""
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(style="dim")
    numbers.add_column()
    for label, value in _numbers(result):
        numbers.add_row(label, Text(value))
    parts = [_slices(result["slices"])] if slices and result["slices"] else []
    return Group(Text(_plain(result["data"]), style="bold"), numbers, *parts)


def _numbers(result: dict[str, Any]) -> list[tuple[str, str]]:
    if result["accuracy"] is None:
        rows = [("accuracy", "not measured: no decided comparison has a reward on both sides")]
    else:
        rows = [
            ("accuracy", f"{_rate(result, 'accuracy', 'interval')}, {result['interval_method']}"),
            ("longer answer", _rate(result, "longer_answer_accuracy", "longer_answer_interval")),
        ]
    if "position_consistency" in result:
        same = f"{result['position_consistency']:.1%} have the same winner in both orders"
        rows.append(("position", same))
    ties = f"{result['ties']} with equal rewards (count half)"
    rows.append(("comparisons", f"{result['count']} of {result['prompts']} prompts, {ties}"))
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


def _rate(result: dict[str, Any], value: str, interval: str) -> str:
    low, high = result[interval]
    return f"{result[value]:.1%} ({result['confidence']:.0%} interval {low:.1%} – {high:.1%})"


def _plain(text: str) -> str:
    """Text without characters that could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
