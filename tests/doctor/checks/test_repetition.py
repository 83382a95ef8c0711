from __future__ import annotations

from dataclasses import replace

from doctor_rows import run, talk, talks, thought, worst
from holdtrue.data.examples import Example
from holdtrue.doctor.remedies.drop_repetitive import DropRepetitive

LOOP = "The tea is hot, and the tea is hot. " * 60


def pair(chosen: str, rejected: str) -> Example:
    return talk(chosen, rejected=({"role": "assistant", "content": rejected},))


def test_copies_and_loops_in_targets_warn(tokenizer):
    folder = tokenizer()
    copies = worst(run(folder, [*talks(20), *talks(5)]), "X03")
    assert copies.severity == "warn" and copies.values["same_examples"] == 5
    loops = worst(run(folder, [*talks(20), talk("I am sure of this very fact. " * 12, at="loop:3")]), "X03")
    assert loops.severity == "warn" and loops.values["looped_at"] == ["loop:3"] and "loop:3" in loops.fix


def test_many_targets_that_loop_fail(tokenizer):
    loop = [talk("I am sure of this very fact. " * 12, at=f"loop:{i}") for i in range(3)]
    assert worst(run(tokenizer(), [*talks(20), *loop]), "X03").severity == "fail"


def test_tables_lists_and_refrains_are_no_loops(tokenizer):
    table = "\n".join(f"| tea {i} | {i * 7} degrees | from cup {i + 3} |" for i in range(12))
    songs = "\n\n".join(
        f"{a} tea, {b} tea,\nPour it slowly for me."
        for a, b in [("Hot", "Cold"), ("Green", "Black"), ("My", "Your")]
    )
    assert worst(run(tokenizer(), [talk(table), talk(songs, "Sing."), *talks(20)]), "X03").severity == "ok"


def test_thoughts_that_loop_are_loops_and_the_remedy_drops_them(tokenizer):
    ask = talks(1)[0].messages[:1]
    rows = [Example((*ask, thought(LOOP if i < 2 else f"Hm {i}.", f"{i}.")), f"d:{i}") for i in range(20)]
    found = worst(run(tokenizer(), rows), "X03")
    assert found.severity == "fail" and found.values["looped_at"] == ["d:0", "d:1"]
    kept, _ = DropRepetitive().apply([{"messages": [*one.messages]} for one in rows])
    assert len(kept) == 18


def test_pairs_whose_chosen_thoughts_loop_warn(tokenizer):
    ask = talks(1)[0].messages[:1]
    rows = [
        Example((*ask, thought(LOOP, "4.")), f"d:{i}", rejected=(thought(LOOP.upper()[:-900], "5."),))
        for i in range(3)
    ]
    rows += [replace(pair("short", "also short"), at=f"e:{i}") for i in range(9)]
    values = worst(run(tokenizer(), rows), "X09").values
    assert (values["looped_chosen"], values["looped_rejected"]) == (3, 3)
    assert values["longer_chosen"] == 3 / 12  # with their thoughts


def test_pairs_that_prefer_long_or_repeating_answers_warn(tokenizer):
    folder = tokenizer()
    longer = [pair("a long answer " * (1 + i % 2), "short") for i in range(40)]
    found = worst(run(folder, longer), "X09")
    assert found.severity == "warn" and found.values["longer_chosen"] == 1.0
    even = [pair("long answer", "short") if i % 2 else pair("short", "long answer") for i in range(40)]
    assert worst(run(folder, even), "X09").severity == "ok"
    plain = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    loop = "one two three four five one two three four five one two three four five oh my"
    looping = [pair(loop, plain) if i % 8 else pair(plain, loop) for i in range(40)]
    found = worst(run(folder, looping), "X09")
    assert found.severity == "warn" and found.values["more_repetitive_chosen"] == 35 / 40
    assert "no pairs" in next(one.why for one in run(folder, talks(3)).skipped if one.id == "X09")
