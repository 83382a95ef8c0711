"""Answers of other prompts as opponents, so that a reward model must read the prompt.

Length and style are the same whatever the prompt; a model that goes by them prefers a long foreign answer
to a short fitting one. Source: RRM (arXiv 2409.13156; code in RLHFlow/RLHF-Reward-Modeling), which draws two
other examples for each comparison. Of the six answers, each of the two own ones beats each of the four
foreign ones (8 "non-contextuals"), and each two foreign ones tie (6 "neutrals"): 14 new comparisons for each
given one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from pydantic import Field

from holdtrue.data.transforms import Counts, Transform
from holdtrue.errors import DataError
from holdtrue.records import Answer, Comparison, Group

MARK = {"augmented": "noncontextual"}
"""Metadata of the rows added."""

_Pairs = dict[str, list[tuple[Group, Comparison]]]


class Noncontextual(Transform):
    """Add comparisons with answers of other prompts: own beats foreign, foreign ties with foreign (RRM)."""

    others: int = Field(2, gt=0)
    """Other prompts drawn for each comparison; each gives the two answers of one of its comparisons."""
    noncontextual: float = Field(1.0, ge=0, le=1)
    """Share kept of the comparisons in which an own answer beats a foreign one."""
    neutral: float = Field(1.0, ge=0, le=1)
    """Share kept of the ties between foreign answers. RRM then kept, of a random half of both, what a first
    reward model got wrong by 0.2 or more: 0.7 million comparisons became 2.4; shares of 0.17 add as many."""
    seed: int = Field(0, ge=0)
    """Seed of the draws."""

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Counts]:
        """The groups as they were, then one for each comparison with what was added for it.

        A foreign answer that equals an own one, or another foreign one, is not used. What is added weighs as
        much as the comparison it is added for, so a ranking of many answers gets no more. Added rows have the
        metadata ``augmented: noncontextual`` and no other.

        Raises:
            DataError: no row has a comparison, or all are of one prompt.
        """
        forms: dict[bool, _Pairs] = {True: defaultdict(list), False: defaultdict(list)}
        for group in groups:
            for comparison in group.comparisons:
                forms[isinstance(group.prompt, str)][group.prompt_key].append((group, comparison))
        if max(map(len, forms.values())) < 2:
            raise DataError(
                "noncontextual draws answers of other prompts, but there are not two with comparisons"
            )
        generator = np.random.default_rng(self.seed)
        counts: Counts = Counter()
        added = [made for pairs in forms.values() for made in self._added(pairs, generator, counts)]
        return [*groups, *added], counts

    def _added(self, pairs: _Pairs, generator: np.random.Generator, counts: Counts) -> Iterator[Group]:
        prompts = list(pairs.values())
        drawn = min(self.others, len(prompts) - 1)
        for number, own_pairs in enumerate(prompts):
            for group, comparison in own_pairs:
                own = [group.answers[i].content for i in (comparison.first, comparison.second)]
                contents = list(own)
                for other in generator.choice(len(prompts) - 1, drawn, replace=False).tolist():
                    rivals = prompts[other + (other >= number)]
                    rival, its = rivals[int(generator.integers(len(rivals)))]
                    for content in (rival.answers[its.first].content, rival.answers[its.second].content):
                        if content in contents:
                            counts["foreign answers equal to another, not used"] += 1
                        else:
                            contents.append(content)
                made = self._comparisons(len(contents), comparison.weight, generator, counts)
                used = sorted({side for c in made for side in (c.first, c.second)})
                if made:
                    yield Group(
                        group.prompt,
                        tuple(Answer(contents[i]) for i in used),
                        tuple(
                            replace(c, first=used.index(c.first), second=used.index(c.second)) for c in made
                        ),
                        dict(MARK),
                        group.source,
                    )

    def _comparisons(
        self, count: int, weight: float, generator: np.random.Generator, counts: Counts
    ) -> list[Comparison]:
        wins = [Comparison(own, other, weight=weight) for own in (0, 1) for other in range(2, count)]
        ties = [Comparison(*pair, label=0.5, weight=weight) for pair in combinations(range(2, count), 2)]
        wins = [c for c, at in zip(wins, generator.random(len(wins)), strict=True) if at < self.noncontextual]
        ties = [c for c, at in zip(ties, generator.random(len(ties)), strict=True) if at < self.neutral]
        counts["non-contextual comparisons added"] += len(wins)
        counts["neutral ties added"] += len(ties)
        return wins + ties
