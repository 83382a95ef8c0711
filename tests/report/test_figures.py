"""Figures are what plotly accepts and show what the result holds."""

from __future__ import annotations

from typing import Any

import pytest

from holdtrue.report import figures
from reporting import make_metrics, make_result

POINT = {"oracle": 0.9, "longest": 0.4, "random": 0.5, "lead_interval": [0.1, 0.2]}
BEST = {
    "curve": [
        {"n": 1, "kl": 0.0, "rating": 0.5, "interval": [0.4, 0.6], **POINT},
        {"n": 2, "kl": 0.193, "rating": 0.7, "interval": [0.6, 0.8], **POINT},
    ]
}


def painted(value: Any, key: str = "") -> Any:
    """The figure with every named colour replaced by a real one, as charts.js does."""
    if isinstance(value, dict):
        return {k: painted(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [painted(v, key) for v in value]
    return "#123456" if key.endswith("color") and isinstance(value, str) and value.startswith("--") else value


@pytest.mark.parametrize("draw", figures.OF_A_RESULT)
def test_figures_of_a_result_are_valid_plotly(draw: Any) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    figure = draw(make_result(count=60) | {"best_of_n": BEST})
    assert graph_objects.Figure(painted(figure), skip_invalid=False).data


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_curves_are_valid_plotly(name: str) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    figure = figures.curve(make_metrics(), name, name)
    assert graph_objects.Figure(painted(figure), skip_invalid=False).data


def test_every_chart_names_both_axes() -> None:
    result = make_result(count=60)
    drawn = [draw(result) for draw in (figures.margins, figures.rewards, figures.reliability, figures.length)]
    drawn.append(figures.best_of_n({"best_of_n": BEST}))
    for figure in [*drawn, figures.curve(make_metrics(), "loss", "loss (nats)")]:
        assert figure["layout"]["xaxis"]["title"]["text"]
        assert figure["layout"]["yaxis"]["title"]["text"]


def test_steps_without_a_finite_loss_are_left_out_of_the_curve() -> None:
    rows = [{"event": "train", "step": n, "loss": None if n == 2 else 0.5} for n in (1, 2, 3)]
    figure = figures.curve(rows, "loss", "loss")
    assert figure is not None
    assert figure["data"][0]["x"] == [1, 3]


def test_long_runs_are_thinned_to_means_of_neighbouring_steps() -> None:
    rows = [{"event": "train", "step": n, "loss": float(n)} for n in range(1, 12_001)]
    figure = figures.curve(rows, "loss", "loss")
    assert figure is not None
    each, smooth = figure["data"]
    assert (len(each["x"]), len(smooth["x"])) == (600, 40)
    assert each["y"][0] == 10.5  # mean of 1 to 20


def test_the_margin_chart_colours_mistakes_apart_and_loses_no_comparison() -> None:
    result = make_result(count=200)
    right, wrong = figures.margins(result)["data"]  # type: ignore[index]
    assert sum(right["y"]) + sum(wrong["y"]) == result["count"]
    assert sum(wrong["y"]) == round((1 - result["accuracy"]) * result["count"])
    assert all(x < 0 for x in wrong["x"])


def test_nothing_measured_draws_nothing() -> None:
    empty = {
        "accuracy": None,
        "slices": {},
        "length_gap": [],
        "reliability": [],
        "points": [],
        "histogram": {"edges": [], "chosen": [], "rejected": []},
        "margins": {"edges": [], "counts": []},
        "best_of_n": None,
    }
    for draw in figures.OF_A_RESULT:
        assert draw(empty) is None
    assert figures.curve([], "loss", "loss") is None


def test_the_best_of_n_curve_stands_over_the_bound_of_the_kl() -> None:
    figure = figures.best_of_n({"best_of_n": BEST})
    assert figure is not None
    lines = {line["name"]: line for line in figure["data"]}
    assert lines["highest reward"]["x"] == [0.0, 0.193]
    assert lines["highest reward"]["y"] == [0.5, 0.7]
    assert lines["highest reward"]["error_y"]["array"] == pytest.approx([0.1, 0.1])
    assert lines["best rated"]["y"] == [0.9, 0.9]


def test_text_from_data_is_escaped_for_plotlys_own_html() -> None:
    row = {"count": 1, "accuracy": 1.0, "interval": [0.2, 1.0]}
    slices = {'<a href="https://x">': [{"value": "<b>&", **row}]}
    result = {"accuracy": 1.0, "interval": [0.2, 1.0], "count": 1, "slices": slices, "length_gap": []}
    figure = figures.forest(result)
    assert figure is not None
    assert figure["data"][0]["text"][1] == "<b>&lt;a href=&quot;https://x&quot;&gt;</b> &lt;b&gt;&amp;"


def test_the_chart_of_slices_has_room_for_sixty_rows() -> None:
    row = {"count": 1, "accuracy": 1.0, "interval": [0.2, 1.0]}
    rows = [{"value": str(n), **row} for n in range(200)]
    result = {"accuracy": 1.0, "interval": [0.2, 1.0], "count": 200, "slices": {"id": rows}, "length_gap": []}
    figure = figures.forest(result)
    assert figure is not None
    assert len(figure["data"][0]["x"]) == 60


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 0.0, "equally long"),
        (0.0, 17.0, "up to 17 longer"),
        (17.0, 24.0, "18–24 longer"),
        (24.0, None, "over 24 longer"),
        (-17.0, 0.0, "up to 17 shorter"),
        (-24.0, -17.0, "18–24 shorter"),
        (None, -24.0, "over 24 shorter"),
        (0.0, None, "longer"),
        (None, 0.0, "shorter"),
    ],
)
def test_length_gaps_are_put_in_words(low: float | None, high: float | None, words: str) -> None:
    assert figures.length_words({"low": low, "high": high}) == words
