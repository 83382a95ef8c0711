"""RMB: pairs and best-of-N sets on helpfulness and harmlessness.

Zhou et al., RMB (arXiv 2410.09893), section 3; https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark.
"""

from __future__ import annotations

from typing import ClassVar

from holdtrue.errors import DataError
from holdtrue.evaluation.benchmarks import Benchmark, Sections, column
from holdtrue.records import Group

_GOALS = {"helpful": "Helpfulness", "harmless": "Harmlessness"}


class RMB(Benchmark):
    """RMB: accuracy on pairs and on best-of-N sets, for the goals helpful and harmless.
    A pair is right when the chosen answer has the higher reward; a best-of-N set (three answers or
    more) when the winner is above every loser. The score is the mean of the four accuracies. Rows are the
    published ones, or pairs and rated completions with a column ``goal``.
    """

    sections: ClassVar[Sections] = {goal: {f"{goal}, best of n": 1, f"{goal}, pairs": 1} for goal in _GOALS}
    layouts: ClassVar[tuple[str, ...]] = ("rmb", "preference", "completions")

    def subset(self, group: Group) -> str:
        path = str(group.meta.get("category_path")).split("/")
        published = next((goal for goal, name in _GOALS.items() if name in path), None)
        goal = published or column(self, group, "goal", list(_GOALS))
        return f"{goal}, {'pairs' if len(group.answers) == 2 else 'best of n'}"

    def sides(self, group: Group) -> tuple[list[int], list[int]]:
        ratings = [answer.ratings.get("rating") for answer in group.answers]
        rated = [rating for rating in ratings if rating is not None]
        if len(rated) < len(ratings):
            return super().sides(group)
        best = max(rated)
        if rated.count(best) != 1 or len(rated) == 1:
            raise DataError(f"{group.source or 'a row'}: rmb needs one answer that is rated above the others")
        return [rated.index(best)], [i for i, rating in enumerate(rated) if rating != best]
