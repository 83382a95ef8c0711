from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_families import findings
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine, repetition
from holdtrue.doctor.encoding import BATCH
from holdtrue.doctor.findings import Missing
from holdtrue.doctor.subject import SAMPLE, Overview, Subject
from holdtrue.doctor.tallies import Distinct, Places, shown, take

LONG = "the tea that was made in the morning is still hot"


def talk(i: int, answer: str) -> Example:
    return Example(
        ({"role": "user", "content": f"How is tea {i}?"}, {"role": "assistant", "content": answer}),
        f"data:{i}",
    )


class Passing:
    """Examples that are made anew in each pass; counts the passes, and those alive at one time."""

    def __init__(self, count: int) -> None:
        self.count, self.passes, self.alive, self.most = count, 0, 0, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example]:
        self.passes += 1
        for i in range(self.count):
            one = talk(i, f"Tea number {i} is hot.")
            weakref.finalize(one, self._drop)
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield one

    def _drop(self) -> None:
        self.alive -= 1


def test_places_keep_the_first_three_and_count_the_rest():
    places = Places()
    for i in range(3):
        places.add(f"a:{i}")
    assert str(places) == "a:0, a:1, a:2"
    for i in range(3, 1000):
        places.add(f"a:{i}")
    assert (len(places), str(places)) == (1000, "a:0, a:1, a:2 and 997 more")
    assert places.first == ["a:0", "a:1", "a:2"]
    assert shown(["a:1", "a:2"]) == "a:1, a:2" and shown([]) == ""


def test_distinct_counts_different_texts():
    different = Distinct()
    assert len(different) == 0
    for text in ["a", "b", "a", "", "\ud800", "b"]:
        different.add(text)
    assert len(different) == 4


def test_a_tally_that_lacks_something_does_not_stop_the_others():
    class Lacking(Places):
        def __init__(self, subject: Subject) -> None:
            raise Missing("a tokenizer")

        def see(self, one: Example) -> None: ...

    found = take([Lacking, Overview], Subject(Path()), [talk(1, "It is hot."), talk(2, "<think>?</think>")])
    lacking, overview = found[Lacking], found[Overview]
    assert isinstance(lacking, Missing) and str(lacking) == "a tokenizer"
    assert isinstance(overview, Overview)
    assert (overview.examples, overview.talks, overview.answered) == (2, 2, 2)
    assert overview.uses == {"thinking": "data:2"} and list(overview.files) == ["data"]


def test_a_check_holds_no_more_than_a_batch_and_its_sample(
    tmp_path: Path, byte_tokenizer: Callable[..., Any]
):
    byte_tokenizer().save_pretrained(tmp_path)
    rows = Passing(1500)
    gc.disable()  # what is dropped must go by itself
    try:
        diagnosis = examine(Subject(tmp_path, examples=rows))
    finally:
        gc.enable()
    assert "X08" in [one.id for one in diagnosis.findings]
    assert rows.passes == 3  # as read, as encoded, and the sample
    assert rows.most < SAMPLE + 3 * BATCH  # a batch is dropped once the next one is encoded


def test_the_data_are_the_same_to_every_check_whether_held_or_passing(
    tmp_path: Path, byte_tokenizer: Callable[..., Any]
):
    byte_tokenizer().save_pretrained(tmp_path)
    settings = {"loss_type": "grpo", "num_train_epochs": 9, "max_completion_length": 22, "max_length": 60}
    rows = Passing(450)
    held = examine(Subject(tmp_path, examples=list(rows), settings=settings))
    passing = examine(Subject(tmp_path, examples=rows, settings=settings))
    assert held.as_json() == passing.as_json()


def test_near_duplicates_are_looked_for_among_so_many_targets_and_it_says_so(
    tmp_path: Path, byte_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    byte_tokenizer().save_pretrained(tmp_path)
    rows = [talk(i, LONG) for i in range(4)]  # three nearly equal an earlier one

    def near() -> tuple[int, str]:
        (found,) = findings(Subject(tmp_path, examples=rows), "X03")
        return found.values["near_duplicate_targets"], found.evidence

    assert near()[0] == 3 and "of the first" not in near()[1]
    monkeypatch.setattr(repetition, "MOST_COMPARED", 2)
    assert near()[0] == 1 and "1 targets nearly equal an earlier one (of the first 2)" in near()[1]
