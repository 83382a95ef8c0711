"""What customers write can be read back, and the first policy writes what its docstring says."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.errors import DataError
from holdtrue.worlds import lexicon
from holdtrue.worlds.lexicon import FAULTS, PRODUCTS, Ticket

TICKETS = [
    Ticket(product, name, tone)
    for name, fault in FAULTS.items()
    for product in PRODUCTS[fault.family]
    for tone in lexicon.OPENERS
]


@given(ticket=st.sampled_from(TICKETS), seed=st.integers(0, 10**6))
def test_the_ticket_is_read_back_from_every_message(ticket: Ticket, seed: int) -> None:
    assert lexicon.read_prompt(lexicon.write_prompt(Random(seed), ticket)) == ticket


@pytest.mark.parametrize(
    "text",
    [
        "",
        "How do I boil an egg?",
        "My router loses its connection.",  # no opener, so no tone
        "Hello. My router and my phone get far too hot.",
    ],
)
def test_a_text_from_outside_the_world_is_refused_with_what_was_found_in_it(text: str) -> None:
    with pytest.raises(DataError, match="needs one product, fault and tone; found"):
        lexicon.read_prompt(text)


def test_a_phrase_is_found_across_punctuation_and_not_inside_other_words() -> None:
    phrases = ["wash the tray", "fit a new seal"]
    assert lexicon.occurring(phrases, lexicon.words("Wash the, TRAY!")) == ["wash the tray"]
    assert lexicon.occurring(phrases, lexicon.words("brainwash the tray")) == []


def test_control_tokens_are_not_words() -> None:
    assert lexicon.words("<|im_start|>assistant\nIt's <pad> done.<|im_end|>") == ["assistant", "it's", "done"]


def test_no_remedy_complaint_or_dismissal_stands_inside_another() -> None:
    for phrases in ([*lexicon.FAULT_OF_REMEDY, *lexicon.DISMISSALS], list(lexicon.FAULT_OF_COMPLAINT)):
        for phrase in phrases:
            assert lexicon.occurring(phrases, phrase.split()) == [phrase]


def test_the_first_policy_gives_the_right_remedy_in_60_percent_and_dismisses_in_30() -> None:
    rng, ticket = Random(0), Ticket("router", "heat", "calm")
    answers = [lexicon.words(lexicon.write_answer(rng, ticket)) for _ in range(4000)]
    right = sum(bool(lexicon.occurring(FAULTS["heat"].remedies, answer)) for answer in answers) / 4000
    dismissed = sum(bool(lexicon.occurring(lexicon.DISMISSALS, answer)) for answer in answers) / 4000
    named = sum("router" in answer for answer in answers) / 4000
    assert right == pytest.approx(0.6, abs=0.025)  # three standard errors
    assert dismissed == pytest.approx(0.3, abs=0.025)
    assert named == pytest.approx(0.75 * 7 / 8, abs=0.025)


def test_a_family_has_120960_messages() -> None:
    # 6 products x 6 faults x 2 complaints x 12 openers x 4 sentences x 7 times x 5 requests
    assert lexicon.prompt_count("kitchen") == 6 * 6 * 2 * 12 * 4 * 7 * 5


def test_every_word_that_is_written_is_in_the_vocabulary() -> None:
    rng, known = Random(1), {word.lower() for word in lexicon.vocabulary()}
    for ticket in TICKETS:
        assert set(lexicon.words(lexicon.write_prompt(rng, ticket))) <= known
        assert set(lexicon.words(lexicon.write_answer(rng, ticket))) <= known
