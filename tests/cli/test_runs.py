"""What a run leaves behind is what the other verbs take up: adapters, raw text, ties, gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdtrue.cli.main import run as holdtrue
from holdtrue.rundir import read_json

Base = Callable[..., Path]
QUICK = ["--set", "training.max_steps=2", "--set", "training.save_steps=2", "--set", "training.eval_steps=2"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(24)]
    return write(tmp_path / "pairs.jsonl", rows)


def train(base: Path, pairs: Path, output: Path, *more: str) -> int:
    return holdtrue(["train", str(pairs), "--model", str(base), "--output", str(output), *QUICK, *more])


def test_a_run_with_adapters_is_evaluated_by_its_run_directory(
    base_model: Base, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert train(base_model(), pairs, output, "--set", "model.lora.r=2") == 0
    assert not (output / "model" / "config.json").exists()
    capsys.readouterr()
    assert holdtrue(["evaluate", str(output), str(pairs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 24


def test_adapters_of_a_base_that_needed_a_padding_token_load_again(
    base_model: Base, byte_tokenizer: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    base = base_model(
        tokenizer=byte_tokenizer(pad_token=None, unk_token=None), vocab_size=258, pad_token_id=None
    )
    output = tmp_path / "run"
    assert train(base, pairs, output, "--set", "model.lora.r=2") == 0
    assert holdtrue(["verify", str(output)]) == 0


def test_a_model_trained_on_raw_text_scores_raw_text(base_model: Base, pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert train(base_model(), pairs, output, "--set", "data.plain_text=raw") == 0
    assert read_json(output / "model" / "reward_card.json")["plain_text"] == "raw"
    scored = tmp_path / "scored.jsonl"
    assert holdtrue(["score", str(output), str(pairs), "--output", str(scored)]) == 0

    from holdtrue.data.reader import Reader
    from holdtrue.reward import store
    from holdtrue.reward.scorer import RewardScorer

    scorer = RewardScorer(store.load_trained(output / "model"))
    raw, chat = (scorer.score(list(Reader([str(pairs)], plain_text=p)))[0] for p in ("raw", "chat"))
    first = json.loads(scored.read_text().splitlines()[0])["rewards"]
    assert first == pytest.approx(raw.tolist(), rel=1e-6)
    assert first != pytest.approx(chat.tolist(), rel=1e-3)


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_a_model_without_a_reward_head_is_not_scored_with(
    verb: str, base_model: Base, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--output", str(tmp_path / "out.jsonl")] if verb == "score" else []
    assert holdtrue([verb, str(base_model()), str(pairs), *extra]) == 3
    assert "has no reward head" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_validation_of_ties_alone_still_ends_in_a_model(
    base_model: Base, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ties = write(
        tmp_path / "ties.jsonl",
        [{"prompt": f"t{n}", "chosen": f"a{n}", "rejected": f"b{n}", "tie": True} for n in range(4)],
    )
    assert train(base_model(), pairs, tmp_path / "run", "--eval", str(ties)) == 0
    assert "not measured" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()


def test_a_temperature_at_its_bound_is_not_called_a_calibration(
    base_model: Base, pairs: Path, tmp_path: Path
) -> None:
    one = write(tmp_path / "one.jsonl", [{"prompt": "x", "chosen": "good one", "rejected": "bad one"}])
    assert train(base_model(), pairs, tmp_path / "run", "--eval", str(one)) == 0
    result = read_json(tmp_path / "run" / "evaluation.json")["results"][0]
    assert result["temperature_bounded"]
    assert read_json(tmp_path / "run" / "model" / "reward_card.json")["calibration"] == {}


def test_a_missed_gate_ends_with_4_and_leaves_the_model(
    base_model: Base, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    rows = [{"prompt": f"q{n}", "chosen": f"same {n}", "rejected": f"same {n} "} for n in range(20)]
    other = write(tmp_path / "other.jsonl", rows + [{**r, "label": 0.0} for r in rows])
    code = train(base_model(), pairs, output, "--eval", str(other), "--set", "evaluation.min_accuracy=0.99")
    assert code == 4
    assert "below evaluation.min_accuracy" in capsys.readouterr().out
    assert holdtrue(["verify", str(output)]) == 0


def test_rows_without_comparison_are_counted_as_left_out(
    base_model: Base, tmp_path: Path, pairs: Path
) -> None:
    with open(pairs, "a", encoding="utf-8") as file:
        for n in range(5):
            file.write(json.dumps({"prompt": f"lonely {n}", "completions": ["a", "b"]}) + "\n")
    output = tmp_path / "run"
    assert train(base_model(), pairs, output, "--set", "data.eval_fraction=0") == 0
    counts = read_json(output / "run.json")["data"]["train"]
    assert counts["dropped"] == {"no comparison": 5}
    assert (counts["comparisons"], counts["prompts"]) == (24, 24)


def test_another_number_of_processes_is_refused_where_it_would_change_the_steps(
    base_model: Base, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from holdtrue.rundir import RunDir

    output = tmp_path / "run"
    assert train(base_model(), pairs, output, "--set", "training.per_device_train_batch_size=4") == 0
    RunDir.open(output).update_info(processes=2)
    assert holdtrue(["resume", str(output)]) == 2
    assert "started with 2 processes" in capsys.readouterr().err


def test_a_run_that_failed_before_its_first_step_makes_room_for_the_next(
    base_model: Base, pairs: Path, tmp_path: Path
) -> None:
    output, broken = tmp_path / "run", tmp_path / "broken.jsonl"
    broken.write_text("not,json\n")
    base = base_model()
    assert train(base, broken, output) == 3
    assert train(base, pairs, output) == 0
    assert train(base, pairs, output) == 2  # but a run that trained stays


def test_taking_up_a_finished_run_again_keeps_what_was_measured_on_other_data(
    base_model: Base, pairs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert train(base_model(), pairs, output) == 0
    assert holdtrue(["evaluate", str(output), str(pairs)]) == 0
    assert holdtrue(["resume", str(output)]) == 0
    results = read_json(output / "evaluation.json")["results"]
    assert [result["data"] for result in results] == ["validation", str(pairs)]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads it
def test_an_adapter_is_loaded_by_the_lines_in_its_readme(
    base_model: Base, pairs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert train(base_model(), pairs, output, "--set", "model.lora.r=2") == 0
    text = (output / "model" / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0].replace("PATH", str(output / "model"))
    found: dict[str, Any] = {}
    exec(code, found)  # the lines a reader would paste

    from holdtrue.records import Answer, Group, Message
    from holdtrue.reward import store
    from holdtrue.reward.scorer import RewardScorer

    group = Group((Message("user", "..."),), (Answer((Message("assistant", "..."),)),))
    (ours,) = RewardScorer(store.load_trained(output / "model")).score([group])
    assert found["reward"] == pytest.approx(float(ours[0]), rel=1e-5)
