import random

from holdtrue.data import near
from holdtrue.data.near import near_classes

WORDS = [f"w{i}" for i in range(2000)]


def text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def with_changes(original: str, *places: int) -> str:
    words = original.split()
    for place in places:
        words[place] = "changed"
    return " ".join(words)


def test_case_punctuation_and_white_space_are_folded() -> None:
    assert near_classes(["How are you?", "Who are you?", "how are  you", "HOW, are you!"]) == [0, 1, 0, 0]


def test_texts_without_words_are_compared_as_they_stand() -> None:
    assert near_classes(["", "?!", " ", "?!", "!?"]) == [0, 1, 0, 1, 4]


def test_one_word_in_forty_is_forgiven_and_one_in_ten_is_not() -> None:
    original = text(1, 40)
    # One change spoils 5 of 36 runs: J = 31 / 41 = 0.76. Four spoil 20: J = 16 / 56 = 0.29.
    assert near_classes([original, with_changes(original, 20)]) == [0, 0]
    assert near_classes([original, with_changes(original, 5, 15, 25, 35)]) == [0, 1]


def test_a_long_text_is_matched_by_its_sketch() -> None:
    original = text(2, 1000)
    assert near_classes([text(3, 1000), original, with_changes(original, *range(0, 1000, 100))]) == [0, 1, 1]


def test_a_text_inside_a_longer_one_is_not_its_duplicate() -> None:
    original = text(4, 60)
    assert near_classes([original, f"{original} {text(5, 60)}"]) == [0, 1]


def test_shared_boilerplate_does_not_hide_the_duplicate_behind_it() -> None:
    boilerplate = text(6, 30)
    bodies = [text(10 + i, 90) for i in range(20)]
    texts = [f"{boilerplate} {body}" for body in bodies] + [f"{boilerplate} {with_changes(bodies[7], 50)}"]
    assert near_classes(texts) == [*range(20), 7]


def test_twins_are_found_below_a_template_that_is_most_of_every_text() -> None:
    template = text(6, 75)
    bodies = [text(10 + i, 25) for i in range(20)]
    texts = [f"{template} {body}" for body in [*bodies, with_changes(bodies[7], 12)]]
    # All share 71 of 96 runs, J = 71 / 121 = 0.59; the twins share all but 5, J = 91 / 101 = 0.90.
    assert near_classes(texts) == [*range(20), 7]


def test_classes_do_not_depend_on_how_texts_are_cut_into_blocks(monkeypatch: object) -> None:
    texts = [text(i % 50, 80) if i % 3 else with_changes(text(i % 50, 80), 40) for i in range(200)]
    whole = near_classes(texts)
    import holdtrue.data.near as near

    monkeypatch.setattr(near, "_BLOCK", 500)  # type: ignore[attr-defined]
    assert near_classes(texts) == whole
    assert len(set(whole)) == 50


def test_sketches_do_not_keep_the_hashes_of_all_words_alive():
    sketches = near._sketches([tuple(range(1, 2000)), tuple(range(2000, 4000))])
    assert [sketch.base for sketch in sketches] == [None, None]
    assert [len(sketch) for sketch in sketches] == [near.SKETCH] * 2
