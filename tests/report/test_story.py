"""The page of the demo, from results written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdtrue.report import story
from holdtrue.rundir import append_jsonl, write_json


def _write(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Gold that rises for ten steps and falls for ten; a habit of a quarter that a veto takes away."""
    write_json(tmp_path / "evaluation.json", {"results": [{"accuracy": 0.78}]})
    for arm, end in (("frozen", -1.0), ("fresh_labels", 0.5)):
        gold = [k / 10 for k in range(10)] + [1 - (1 - end) * k / 10 for k in range(1, 11)]
        curve = [{"kl": 0.5 * k, "gold": g, "proxy": k / 10} for k, g in enumerate(gold)]
        rows = [
            {"gold": end, "before": {"relative_spread": s, "accuracy": 0.6}, "refresh": {"labels": 250}}
            for s in (0.7, 0.4, 0.3)
        ]
        _write(tmp_path / "gold" / "seed-00" / arm / "result.json", {"curve": curve, "rounds": rows})
    for arm, rate in (("blind", 0.2), ("veto", 0.01)):
        numbers = {"healthy_control_rate": 0.0, "before_control_rate": 0.25, "control_rate": rate}
        texts = [{"prompt": "Hi", "before": "Yes.<|im_start|>", "after": f"<b>{arm}</b>"}]
        place = tmp_path / "habit" / "seed-00" / arm
        _write(place / "result.json", {"numbers": numbers, "transcripts": texts})
    place = tmp_path / "habit" / "seed-00" / "blind" / "rl"
    place.mkdir()
    append_jsonl(place / "findings.jsonl", [{"text": "control tokens at step 3"}])
    return tmp_path


def test_the_story_says_where_the_truth_turned_and_what_helped(folder: Path) -> None:
    page = story.write_story(folder).read_text(encoding="utf-8")
    assert "up to step 10 (4.5 nats" in page or "up to step 11 (5.0 nats" in page
    assert "the proxy says +1.9 standard deviations, the truth is -1.0" in page
    assert "(500 in all" in page and "the truth is +0.5 instead of -1.0" in page
    assert "25.0% of its answers hold it afterwards" in page
    assert "control tokens at step 3" in page
    for name in ("goodhart", "telemetry", "repair", "habit"):
        assert f'data-figure="{name}"' in page


def test_what_a_model_wrote_is_escaped(folder: Path) -> None:
    page = story.write_story(folder).read_text(encoding="utf-8")
    assert "&lt;b&gt;veto&lt;/b&gt;" in page and "<b>veto</b>" not in page
    assert "Yes.&lt;|im_start|&gt;" in page
