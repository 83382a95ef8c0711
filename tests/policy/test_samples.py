import numpy as np
import pytest

from holdtrue.errors import DataError
from holdtrue.policy.samples import Samples


def samples(**changes):
    values = {
        "prompt_ids": [np.array([5, 6, 7]), np.array([8])],
        "group": 2,
        "completion_ids": [np.array([10, 2]), np.array([11]), np.array([12, 13, 14]), np.array([2])],
        "logprobs": [np.float32([-1, -2]), np.float32([-3]), np.float32([-4, -5, -6]), np.float32([-7])],
        "finish": ["stop", "length", "loop", "stop"],
    }
    return Samples(**(values | changes))


def test_rows_are_prompt_then_answer_then_padding():
    padded = samples().padded(pad=0)
    assert padded.ids_NT.tolist() == [[5, 6, 7, 10, 2], [5, 6, 7, 11, 0], [8, 12, 13, 14, 0], [8, 2, 0, 0, 0]]
    assert padded.attention_NT.sum(1).tolist() == [5, 4, 4, 2]
    assert padded.completion_NT.int().tolist() == [
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 0, 0, 0],
    ]
    assert padded.logprobs_NT.tolist() == [
        [0, 0, 0, -1, -2],
        [0, 0, 0, -3, 0],
        [0, -4, -5, -6, 0],
        [0, -7, 0, 0, 0],
    ]


def test_rows_of_a_prompt_stand_together():
    assert samples().prompt_of.tolist() == [0, 0, 1, 1]
    assert samples().lengths.tolist() == [2, 1, 3, 1]


def test_a_rollout_has_the_ids_that_were_drawn_and_a_text_without_the_end_token(byte_tokenizer):
    tokenizer = byte_tokenizer()
    a, b = tokenizer("ab").input_ids
    ids = [np.array([a, 0, b, 1]), np.array([a, 0]), np.array([b, b, b]), np.array([1])]
    rollouts = samples(completion_ids=ids, logprobs=[np.zeros(len(row), np.float32) for row in ids]).rollouts(
        ["x", "y"], tokenizer, step=3, policy="current"
    )
    assert [r.answer for r in rollouts] == ["a<|im_start|>b", "a<|im_start|>", "bbb", ""]
    assert rollouts[0].completion_ids == [a, 0, b, 1] and rollouts[0].logprobs == [0.0] * 4
    assert [r.prompt for r in rollouts] == ["x", "x", "y", "y"]
    assert {(r.step, r.policy) for r in rollouts} == {(3, "current")}
    assert [r.finish for r in rollouts] == ["stop", "length", "loop", "stop"] and rollouts[0].meta == {}


def test_a_continuation_keeps_the_space_it_begins_with(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared("models/stories260K"))
    start, whole = "Once upon a time", "Once upon a time there was"
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (start, whole)]
    rest = np.array(ids[1][len(ids[0]) :])
    made = samples(
        prompt_ids=[np.array(ids[0])],
        group=1,
        completion_ids=[rest],
        logprobs=[np.zeros(len(rest))],
        finish=["length"],
    )
    assert tokenizer.decode(rest) == "there was"  # what the tokenizer makes of the answer alone
    assert start + made.rollouts([start], tokenizer)[0].text == whole


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(DataError, match=r"2 prompts x 3 answers are 6 rows; seen 4 of ids"):
        samples(group=3)
    with pytest.raises(DataError, match="row 1 has 1 tokens and 2 log-probabilities"):
        samples(logprobs=[np.zeros(2), np.zeros(2), np.zeros(3), np.zeros(1)])
    with pytest.raises(DataError, match="2 prompts were sampled from; seen 1 texts"):
        samples().rollouts(["x"], None)
