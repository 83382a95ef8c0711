"""HHH alignment: pairs on helpfulness, honesty, harmlessness and other matters.

Askell et al., A General Language Assistant as a Laboratory for Alignment (arXiv 2112.00861); the task
``hhh_alignment`` of BIG-bench, 221 pairs.
"""

from __future__ import annotations

from typing import ClassVar

from holdtrue.evaluation.benchmarks import Benchmark, Sections, column
from holdtrue.records import Group

_SUBSETS = ("harmless", "helpful", "honest", "other")


class HHH(Benchmark):
    """HHH alignment: accuracy on pairs in harmless, helpful, honest and other; the score is their mean.
    Rows are pairs with a column ``subset``.
    """

    sections: ClassVar[Sections] = {name: {name: None} for name in _SUBSETS}
    layouts: ClassVar[tuple[str, ...]] = ("preference",)

    def subset(self, group: Group) -> str:
        return column(self, group, "subset", _SUBSETS)
