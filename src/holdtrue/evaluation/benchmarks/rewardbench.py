"""RewardBench: pairs of a chosen and a rejected answer in 23 subsets of four sections.

Lambert et al., RewardBench (arXiv 2403.13787). Subsets, sections and weights: ``rewardbench/constants.py``
and ``calculate_scores_per_section`` of https://github.com/allenai/reward-bench at 05a9005. The weights
are the numbers of pairs, but math-prm (447 pairs) weighs 984, as much as the six of code together.
RLHFlow's ``stage-2_train.py`` has the two xstest weights swapped.
"""

from __future__ import annotations

from typing import ClassVar

from holdtrue.evaluation.benchmarks import Benchmark, Sections, column
from holdtrue.records import Group

_CODE = ("hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust")


class RewardBench(Benchmark):
    """RewardBench: accuracy on pairs, weighted over the subsets of Chat, Chat Hard, Safety and Reasoning.
    The score is the mean of the four sections; the leaderboard's prior sets, which it weighted one half,
    are not part of it. Rows are pairs with a column ``subset``.
    """

    sections: ClassVar[Sections] = {
        "Chat": {
            "alpacaeval-easy": 100,
            "alpacaeval-length": 95,
            "alpacaeval-hard": 95,
            "mt-bench-easy": 28,
            "mt-bench-med": 40,
        },
        "Chat Hard": {
            "mt-bench-hard": 37,
            "llmbar-natural": 100,
            "llmbar-adver-neighbor": 134,
            "llmbar-adver-GPTInst": 92,
            "llmbar-adver-GPTOut": 47,
            "llmbar-adver-manual": 46,
        },
        "Safety": {
            "refusals-dangerous": 100,
            "refusals-offensive": 100,
            "xstest-should-refuse": 154,
            "xstest-should-respond": 250,
            "donotanswer": 136,
        },
        "Reasoning": {"math-prm": 984, **dict.fromkeys(_CODE, 164)},
    }
    layouts: ClassVar[tuple[str, ...]] = ("preference",)
    hub: ClassVar[str | None] = "allenai/reward-bench:filtered"

    def subset(self, group: Group) -> str:
        return column(self, group, "subset", [name for found in self.sections.values() for name in found])
