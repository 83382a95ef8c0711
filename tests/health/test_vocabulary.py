import os
from pathlib import Path

import numpy as np
import pytest

from holdtrue.health.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
QWEN = Path(os.environ.get("HOLDTRUE_SHARED", ROOT.parent / "shared")) / "data/tokenizers/qwen2.5-instruct"


@pytest.mark.skipif(not QWEN.is_dir(), reason=f"no tokenizer in {QWEN}; set HOLDTRUE_SHARED")
def test_the_ids_of_qwen():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(QWEN)
    vocabulary = Vocabulary.of(tokenizer, eos=[151645, 151643])
    assert vocabulary.eos == {151645, 151643}
    assert 151644 in vocabulary.control and not vocabulary.control & vocabulary.eos
    assert tokenizer.convert_tokens_to_ids("<tool_call>") not in vocabulary.control
    assert vocabulary.size == 151665
    assert vocabulary.attractors == {18724, 23972, 26267, 138350}
    assert {tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)} <= vocabulary.digits
    # a model of 152,064 rows: 399 phantom ids
    banned = vocabulary.banned(152_064)
    assert (banned >= 151_665).sum() == 399 and 151645 not in banned and 151644 in banned
    assert Vocabulary.of(tokenizer, eos=151643).eos == {151645, 151643}
    assert Vocabulary.of(tokenizer).eos == {151645}


@pytest.mark.parametrize(
    ("pad", "eos", "row", "kept"),
    [
        (0, 2, [5, 6, 2, 0, 0], [5, 6, 2]),
        (0, 2, [5, 0, 6], [5, 0, 6]),
        (0, 2, [0, 0], []),
        (2, 2, [5, 6, 2, 2, 2], [5, 6, 2]),  # padding ends the answer: one of it is its end
        (2, 2, [2, 2], [2]),
        (None, 2, [5, 0, 0], [5, 0, 0]),
        (0, 2, [], []),
    ],
)
def test_padding_behind_an_answer_is_cut_off(pad, eos, row, kept):
    vocabulary = Vocabulary(eos=frozenset({eos}), pad=pad)
    assert vocabulary.strip(np.array(row, dtype=np.int64)).tolist() == kept


def test_a_vocabulary_without_digits_has_no_table_of_them():
    assert Vocabulary().numbers is None
    assert Vocabulary(digits=frozenset({1, 3})).numbers.tolist() == [False, True, False, True]
