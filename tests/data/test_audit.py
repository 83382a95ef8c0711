import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdtrue.data.audit import Audit, audit, longer_answer
from holdtrue.data.checks import Finding
from holdtrue.data.corpus import quantiles
from holdtrue.data.reader import Reader, ReadReport
from holdtrue.records import Answer, Comparison, Group, Message, Source

SHARED = Path(os.environ.get("HOLDTRUE_SHARED", Path(__file__).parents[3] / "shared"))
LONG = "please tell me all that you know about the " + " ".join(f"thing{i}" for i in range(40))


def pair(prompt: str, first: str, second: str, label: float = 1.0, line: int = 1, file: str = "f") -> Group:
    return Group(
        (Message("user", prompt),),
        (Answer((Message("assistant", first),)), Answer((Message("assistant", second),))),
        (Comparison(0, 1, label),),
        source=Source(file, line),
    )


def found(result: Audit) -> dict[str, tuple[str, int, tuple[str, ...]]]:
    return {finding.name: (finding.severity, finding.count, finding.examples) for finding in result.findings}


def test_clean_data_has_counts_and_no_findings() -> None:
    result = audit([pair("p", "good", "evil"), pair("q", "yes", "nah", 0.5), pair("r", "aye", "nay", 0.7)])
    assert result.findings == [] and not result.failed
    counts = result.counts["train"]
    assert (counts["rows"], counts["kept"], counts["prompts"], counts["answers"]) == (3, 3, 3, 6)
    assert (counts["comparisons"], counts["ties"], counts["soft_labels"]) == (3, 1, 1)
    assert result.lengths["train"]["preferred"]["p50"] == 3.5  # "good" and "aye"; the tie has no winner
    assert result.fit is None


def test_quantiles_of_the_numbers_to_100() -> None:
    measured = quantiles(range(101))
    assert measured == {
        "count": 101, "mean": 50.0, "min": 0, "p5": 5.0, "p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100,
    }  # fmt: skip
    assert quantiles([]) == {"count": 0}


def test_the_longer_answer_baseline_counts_equal_lengths_half_and_leaves_ties_out() -> None:
    groups = [
        pair("a", "long one", "short"),
        pair("b", "short", "long one"),
        pair("c", "short", "long one", label=0.2),
        pair("d", "same", "size"),
        pair("e", "a tie of", "two", label=0.5),
    ]
    measured = longer_answer(groups)
    assert (measured["accuracy"], measured["count"], measured["equal"]) == (2.5 / 4, 4, 1)
    assert longer_answer([])["accuracy"] is None


def test_length_bias_is_a_warning_on_either_side_when_it_is_beyond_chance() -> None:
    longer = [pair(f"p{i}", f"long answer {i}", f"no {i}") for i in range(30)]
    (finding,) = audit(longer).findings
    assert (finding.name, finding.severity) == ("length bias", "warn")
    assert '"the longer answer wins" is right for 100% of the comparisons' in finding.what
    shorter = [pair(f"p{i}", f"no {i}", f"long answer {i}") for i in range(30)]
    assert '"the shorter answer wins"' in audit(shorter).findings[0].what
    assert audit(longer[:3]).findings == []  # the interval reaches from 0.44 to 1


def test_exact_and_near_duplicates_are_told_apart() -> None:
    groups = [
        pair("p", LONG, "no", line=1),
        pair("q", LONG, "no", line=2),
        pair("p", LONG, "no", line=3),
        pair("P!", LONG.replace("thing20", "stuff"), "No.", line=4),
        pair("p", LONG, "another answer", line=5),
    ]
    findings = found(audit(groups))
    assert findings["duplicates"] == ("warn", 1, ("f:3",))
    assert findings["near duplicates"] == ("info", 1, ("f:4",))


def test_the_same_preference_said_from_either_side_is_a_duplicate() -> None:
    assert "duplicates" in found(audit([pair("p", "a", "b"), pair("p", "b", "a", label=0.0)]))
    assert "duplicates" in found(audit([pair("p", "a", "b", 0.5), pair("p", "b", "a", 0.5)]))
    assert "duplicates" not in found(audit([pair("p", "a", "b"), pair("p", "a", "b", 0.5)]))


def test_opposite_preferences_contradict_each_other_and_ties_do_not() -> None:
    groups = [
        pair("p", "a", "b", line=1),
        pair("p", "b", "a", line=2),
        pair("q", "a", "b", line=3),
        pair("r", "a", "b", line=4),
        pair("r", "a", "b", label=0.5, line=5),
    ]
    assert found(audit(groups))["contradictions"] == ("warn", 2, ("f:1", "f:2"))


def test_leaked_rows_fail_and_shared_prompts_warn_exactly_and_nearly() -> None:
    train = [pair(LONG, "a", "b"), pair("What is tea?", "c", "d")]
    held_out = [
        pair(LONG, "a", "b", line=1, file="e"),
        pair(LONG, "a", "other", line=2, file="e"),
        pair("what is TEA", "x", "y", line=3, file="e"),
        pair(LONG.replace("thing9", "stuff"), "x", "y", line=4, file="e"),
        pair("Something else?", "a", "b", line=5, file="e"),
    ]
    result = audit(train, held_out)
    findings = found(result)
    assert findings["leaked rows"] == ("fail", 1, ("e:1",))
    assert findings["shared prompts"] == ("warn", 1, ("e:2",))
    assert findings["nearly shared prompts"] == ("warn", 2, ("e:3", "e:4"))
    assert result.failed and result.findings[0].name == "leaked rows"


def test_repeats_across_the_splits_are_leaks_and_not_duplicates() -> None:
    assert set(found(audit([pair("p", "a", "b")], [pair("p", "a", "b")]))) == {"leaked rows"}


def test_sides_that_are_equal_folded_or_empty_are_found() -> None:
    groups = [
        pair("p", "Yes  indeed", "yes indeed", line=1),
        pair("q", "yes, indeed", "yes indeed", line=2),
        pair("r", "", "some", line=3),
        pair("s", "same", "same", line=4),
    ]
    findings = found(audit(groups))
    assert findings["sides equal when folded"] == ("warn", 1, ("f:1",))
    assert findings["empty answers"] == ("warn", 1, ("f:3",))
    assert findings["identical pairs"] == ("warn", 1, ("f:4",))


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>",
        "a<|start_header_id|>b",
        "</s>",
        "[INST] x",
        "<end_of_turn>",
        "<｜User｜>",
        "[SEP]",
        "<eos>",
    ],
)
def test_control_tokens_inside_text_are_found(text: str) -> None:
    assert found(audit([pair("p", f"fine {text}", "b", line=7)]))["control tokens in text"][2] == ("f:7",)


@pytest.mark.parametrize("text", ["a < b | c > d", "<s", "[1]", "<b>bold</b>", "x |> f", "List<string>"])
def test_ordinary_markup_is_no_control_token(text: str) -> None:
    assert audit([pair("p", text, "b")]).findings == []


def test_special_tokens_of_the_model_are_looked_for_as_well() -> None:
    groups = [pair("p", "before @@END@@ after", "b")]
    assert audit(groups).findings == []
    assert "control tokens in text" in found(audit(groups, control_tokens=["@@END@@", ""]))


def test_role_markers_are_found_in_turns_but_not_in_plain_dialogues() -> None:
    assert "role markers in text" in found(audit([pair("p", "Sure.\n\nHuman: and now?", "b")]))
    assert "role markers in text" in found(audit([pair("p", "Sure.\n### Response: yes", "b")]))
    plain = Group("\n\nHuman: q\n\nAssistant:", (Answer(" a"), Answer(" b")), (Comparison(0, 1),))
    assert audit([plain]).findings == []


def test_broken_characters_are_found() -> None:
    assert found(audit([pair("p", "donâ€™t", "b")]))["broken characters"][1] == 1
    assert found(audit([pair("p", "caf\ufffd", "b")]))["broken characters"][1] == 1
    assert audit([pair("p", "café “naïve” Ãlesund", "b")]).findings == []


def test_many_comparisons_of_few_prompts_are_pointed_out() -> None:
    groups = [pair("p", f"a{i}", f"b{i}") for i in range(5)]
    assert found(audit(groups))["few prompts"] == ("info", 1, ())
    assert audit(groups[:4]).findings == []


def test_rejected_and_repaired_rows_of_the_reader_are_findings() -> None:
    report = ReadReport(rows=5, kept=1, rejected=Counter({"not JSON": 3, "identical sides": 1}))
    report.examples = {
        "not JSON": [{"at": "f:2", "detail": "Expecting value"}],
        "identical sides": [{"at": "f:5", "detail": ""}],
    }
    report.repaired["lone surrogates replaced"] = 1
    result = audit([pair("p", "a", "b")], read=report)
    findings = found(result)
    assert findings["rejected: not JSON"] == ("warn", 3, ("f:2",))
    assert findings["rejected: identical sides"][1] == 1
    assert findings["repaired: lone surrogates replaced"] == ("info", 1, ())
    assert result.counts["train"]["rows"] == 5


def words_of(groups: Sequence[Group]) -> Iterator[list[int | str]]:
    for group in groups:
        texts = [f"{group.prompt_text} {answer.text}" for answer in group.answers]
        yield ["refused" if "refuse" in text else len(text.split()) for text in texts]


def test_what_max_length_drops_and_cuts_is_counted() -> None:
    groups = [
        pair("p", "a b c", "a"),  # 4 and 2 words
        pair("q", "a b c d e", "a b c d e f"),  # 6 and 7
        pair("r", "a", "refuse"),
    ]
    result = audit(groups, count_tokens=words_of, max_length=4)
    assert result.fit is not None
    assert result.fit["train"] == {
        "max_length": 4,
        "answers": 6,
        "answers_over": 2,
        "comparisons": 3,
        "comparisons_dropped": 2,
        "tokens_over": 5,
        "refused": {"refused": 1},
    }
    assert result.lengths["train"]["tokens"]["max"] == 7
    findings = found(result)
    assert findings["longer than max_length"][:2] == ("warn", 2)
    assert findings["cannot be encoded"][:2] == ("warn", 1)


def test_an_audit_is_one_json_value() -> None:
    result = audit([pair("p", "a", "b")], [pair("p", "a", "b")], count_tokens=words_of, max_length=1)
    value: dict[str, Any] = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert value["failed"] is True
    assert set(value["counts"]) == {"train", "eval"}
    assert value["findings"][0] == {
        "name": "leaked rows",
        "severity": "fail",
        "count": 1,
        "what": "eval rows are in the training data, with the same prompt, answers and preference",
        "advice": "Remove them from one side; accuracy on them measures memory.",
        "examples": ["f:1"],
    }
    assert [field for field in Finding.__dataclass_fields__] == list(value["findings"][0])  # noqa: C416


def test_hh_harmless_prefers_shorter_answers_and_splits_by_prompt() -> None:
    folder = SHARED / "data" / "hh_harmless"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    train, held_out = (list(Reader([str(folder / f"{name}.jsonl.gz")])) for name in ("train", "test"))
    result = audit(train, held_out)
    # 657 of 1525 answers longer and preferred, 7 of equal length
    assert result.longer_answer["train"]["accuracy"] == pytest.approx((657 + 3.5) / 1525)
    assert found(result)["empty answers"][1] == 4
    assert not {"leaked rows", "shared prompts", "contradictions", "duplicates"} & set(found(result))
