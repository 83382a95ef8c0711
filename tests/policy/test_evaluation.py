"""Which prompts policies are asked, and in which order their answers are judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy
from holdtrue.errors import DataError, SettingsError
from holdtrue.policy.evaluation import ask, build, draw, enter, judged
from holdtrue.policy.lineage import Lineage
from holdtrue.records import Rollout


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(file: Path, **changes: Any) -> Any:
    values = {"data": {"prompts": [str(file)]}, "decoding": {"max_new_tokens": 4}, **changes}
    return build(values)


def test_what_is_not_given_is_as_in_the_first_run_that_says_it() -> None:
    run = Lineage(decoding={"max_new_tokens": 9, "temperature": 0.5}, plain_text="raw")
    found = build({"decoding": {"temperature": 2.0}}, [Lineage(), run, Lineage(plain_text="chat")])
    assert (found.decoding.max_new_tokens, found.decoding.temperature) == (9, 2.0)
    assert found.data.plain_text == "raw"
    assert build({"data": {"plain_text": "chat"}}, [run]).data.plain_text == "chat"
    assert build({}).decoding.max_new_tokens == 128 and build({}).data.plain_text == "chat"
    with pytest.raises(SettingsError, match="unknown setting 'grup'; did you mean 'group'"):
        build({"grup": 2})
    with pytest.raises(SettingsError, match="decoding"):
        build({"decoding": 3})


def test_prompts_that_were_trained_on_repeat_or_leave_one_policy_no_room_are_left_out(tmp_path: Path) -> None:
    wide = toy.write_model(tmp_path / "wide")
    narrow = toy.write_model(tmp_path / "narrow", positions=16)
    asked = [{"prompt": f"tell about {topic} ?", "kind": topic} for topic in ("rain", "bees", "chess")]
    long = {"prompt": "tell about rain and bees and chess and trains and bread and paint ?"}
    file = write(tmp_path / "p.jsonl", asked[0], asked[1], asked[0], long, {"other": 1}, asked[2])
    made = settings(file)
    both = [enter(str(folder), made.decoding, "cpu") for folder in (wide, narrow)]
    taught = Lineage(trained={"run": {"tell about bees ?"}})
    found = ask(made, both, [Lineage(), taught])
    assert [group.meta["kind"] for group in found.prompts] == ["rain", "chess"]
    assert [len(ids) for ids in found.ids] == [2, 2]
    assert found.left_out == {
        "layout not recognised": 1,
        "trained on by run": 1,
        "repeated": 1,
        f"too long for the context of {narrow}": 1,
    }
    everything = Lineage(trained={"run": {f"tell about {t} ?" for t in ("rain", "bees", "chess")}})
    with pytest.raises(DataError, match=r"no usable prompt in .*p\.jsonl: 4 trained on by run, 1 "):
        ask(made, both, [everything])


def test_a_context_that_an_answer_fills_is_refused(tmp_path: Path) -> None:
    folder = toy.write_model(tmp_path / "policy", positions=16)
    with pytest.raises(SettingsError, match=r"context of 16 tokens, so answers of 16 leave no room"):
        enter(str(folder), build({"decoding": {"max_new_tokens": 16}}).decoding, "cpu")


def test_policies_draw_with_the_same_seed_so_equal_ones_answer_alike(tmp_path: Path) -> None:
    for name in ("one", "two"):
        toy.write_model(tmp_path / name)
    file = write(tmp_path / "p.jsonl", *({"prompt": f"tell about {topic} ?"} for topic in toy.TOPICS))
    made = settings(file, group=2)
    both = [enter(str(tmp_path / name), made.decoding, "cpu") for name in ("one", "two")]
    lines: list[str] = []
    (first, second), seconds = draw(ask(made, both, []), both, made, lines.append)
    assert len(first) == 2 * len(toy.TOPICS) and len(seconds) == len(lines) == 2
    assert [row.completion_ids for row in first] == [row.completion_ids for row in second]
    assert first[0].prompt == first[1].prompt and first[0].completion_ids != first[1].completion_ids
    assert {row.policy for row in second} == {str(tmp_path / "two")}
    (other, _), _ = draw(ask(made, both, []), both, settings(file, group=2, seed=7))
    assert [row.completion_ids for row in other] != [row.completion_ids for row in first]


def test_answers_of_both_policies_to_a_prompt_are_judged_as_one_group() -> None:
    class Recording:
        """A judge whose reward of an answer is its text, and who keeps the groups it saw."""

        def __init__(self) -> None:
            self.groups: list[list[str]] = []

        def judge(self, rollouts: Sequence[Rollout], group: int) -> Any:
            texts = [row.text for row in rollouts]
            self.groups += [texts[i : i + group] for i in range(0, len(texts), group)]
            return np.array([float(text) for text in texts])

    count = 40  # more prompts than are judged at once
    ours = [Rollout(f"p{p}", f"{p}.{g}") for p in range(count) for g in (1, 2)]
    theirs = [Rollout(f"p{p}", f"{p}.{g}") for p in range(count) for g in (3, 4)]
    recording = Recording()
    first, second = judged(recording, [ours, theirs], 2)
    assert recording.groups == [[f"{p}.{g}" for g in (1, 2, 3, 4)] for p in range(count)]
    assert first.tolist() == [[p + 0.1, p + 0.2] for p in range(count)]
    assert second.tolist() == [[p + 0.3, p + 0.4] for p in range(count)]
