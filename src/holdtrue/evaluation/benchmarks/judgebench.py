"""JudgeBench: pairs of responses to hard questions of which one is objectively right.

Tan et al., JudgeBench (arXiv 2410.12784). Rule: ``compute_final_metrics`` of
https://github.com/ScalerLab/JudgeBench at e2c52c2, ``utils/metrics.py``; categories by the start of
``source`` as in ``run_judge.py``.
"""

from __future__ import annotations

from typing import ClassVar

from holdtrue.errors import DataError
from holdtrue.evaluation.benchmarks import Benchmark, Sections
from holdtrue.records import Group

_CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


class JudgeBench(Benchmark):
    """JudgeBench: accuracy on pairs in knowledge, reasoning, math and coding, and over all pairs.
    The score counts each pair once, whatever its category. A reward model judges an answer by itself, so
    both orders of a pair give the same verdict, and equal rewards a net vote of 0, which is not right.
    Rows have a question, responses A and B, a label and a column ``source``; the hub's are the 350
    pairs of GPT-4o.
    """

    sections: ClassVar[Sections] = {"overall": dict.fromkeys(_CATEGORIES.values())}
    layouts: ClassVar[tuple[str, ...]] = ("judgebench",)
    hub: ClassVar[str | None] = "ScalerLab/JudgeBench:gpt"

    def subset(self, group: Group) -> str:
        source = str(group.meta.get("source"))
        for start, category in _CATEGORIES.items():
            if source.startswith(start):
                return category
        raise DataError(
            f"{group.source or 'a row'}: source is {source!r}; judgebench needs one that starts with "
            + ", ".join(_CATEGORIES)
        )
