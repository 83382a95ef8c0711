"""From groups to trees: encode, and count whatever is left out on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from holdtrue.records import Group
from holdtrue.rundir import append_jsonl
from holdtrue.tokens import joint
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.tree import PAIRS, Lesson, Tree, forest


@dataclass
class Prepared:
    """Comparisons of one split, ready for training, and the account of those that are not.

    Attributes:
        groups: every group read for this split.
        trees: what is trained or validated on.
        dropped, cut, repaired: reasons and how many comparisons (answers, conversations) they concern.
        prompts: distinct prompts among the trees.
    """

    groups: list[Group]
    trees: list[Tree] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    prompts: int = 0
    dropped_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every distinct conversation that is used."""
        return [len(tree.prompt) + len(answer) for tree in self.trees for answer in tree.answers]

    def summary(self) -> dict[str, Any]:
        """Counts as they stand in ``run.json``."""
        return {
            "comparisons": sum(tree.count("comparison") for tree in self.trees),
            "answers": sum(len(tree.answers) for tree in self.trees),
            "prompts": self.prompts,
            "trees": len(self.trees),
            "tokens_unique": sum(tree.tokens for tree in self.trees),
            "tokens_real": sum(tree.real_tokens for tree in self.trees),
            "dropped": dict(self.dropped),
            "cut": dict(self.cut),
            "repaired": dict(self.repaired),
        }


def prepare(
    groups: list[Group],
    encoder: Encoder | joint.JointEncoder,
    max_answers: int,
    split: str,
    lesson: Lesson = PAIRS,
    both_orders: bool = False,
) -> Prepared:
    """Encode groups and grow their trees, keeping account of everything left out.

    ``both_orders`` concerns models that compare: each comparison is shown in both.
    """
    prepared = Prepared(groups)

    def dropped(group: Group, reason: str) -> None:
        prepared.dropped[reason] += 1
        source = group.source
        prepared.dropped_rows.append(
            {
                "file": source.file if source else None,
                "line": source.line if source else None,
                "split": split,
                "reason": reason,
            }
        )

    before = encoder.repaired.copy()
    if isinstance(encoder, Encoder):
        pairs = zip(groups, encoder.encode(groups), strict=True)
        by_prompt = forest(pairs, max_answers, dropped, prepared.cut, lesson)
    else:
        by_prompt = joint.forest(groups, encoder, both_orders, max_answers, dropped, prepared.cut)
    prepared.trees = [tree for trees in by_prompt for tree in trees]
    prepared.prompts = len(by_prompt)
    prepared.repaired = encoder.repaired - before
    return prepared


def write_dropped(path: Path, splits: Sequence[Prepared]) -> None:
    """List every dropped comparison in ``dropped.jsonl``."""
    path.unlink(missing_ok=True)
    rows = [row for prepared in splits for row in prepared.dropped_rows]
    if rows:
        append_jsonl(path, rows)


def length_quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Median, 90th, 99th percentile and maximum of conversation lengths in tokens."""
    if not lengths:
        return {}
    p50, p90, p99 = np.percentile(lengths, [50, 90, 99])
    return {"p50": int(p50), "p90": int(p90), "p99": int(p99), "max": int(max(lengths))}
