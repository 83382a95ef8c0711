"""Samples that have begun to loop and find the way out.

Of a healthy target ``a b c d`` and a piece drawn from its lines or sentences (never the last one) a row

    a b b b | c d                  with a known loop L:   a b c d L L L |

is made: the answer says ``b`` two or three times, and goes on as it should; or it is done, says L, and ends.
Only what stands behind ``|`` is to be learned: ``loss_from`` is its first character in the answer. Learned
whole, the row would teach to loop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from holdtrue.doctor.remedies import Changes, DataRemedy, Row
from holdtrue.doctor.remedies._rows import LEARNED, role_of, shown, target

_PIECE = re.compile(r".+?(?:[.!?]+\s+|[。！？]+\s*|\n+|\Z)", re.DOTALL)
"""A line or a sentence, with the space behind it."""


class Recovery(DataRemedy):
    """Rows are added in which an answer has begun to loop and goes on right; the loop itself is not learned.

    Plain text rows get the loop at the end of ``prompt``, so that any trainer of completions leaves it out.
    Conversations keep it in the answer, with ``loss_from``: the trainer must mask the characters before.
    In preferences both sides begin to loop, and the rejected one goes on: what they share cancels in the
    difference of their log-probabilities, so DPO learns the way out alone.
    """

    grade = "C"
    evidence = (
        "2 % such rows take the way on in a begun loop from 0.72 to 0.68 a step in the bigram model, with "
        "rebalancing to 0.35, which rebalancing alone leaves at 0.73; penalising made-up repetitions cut "
        "loops of GPT-2 (DITTO)"
    )
    source = "benchmarks/remedies.py; arXiv 2206.02369"
    mends = frozenset({"loops_taught_or_unpunished", "control_tokens_can_be_sampled"})
    harms = "rows are prompts alone"

    share: float = Field(0.02, gt=0, le=1)
    """Rows added, as a share of the rows they can be made of."""
    loop: str = ""
    """Text of a loop the policy is known for; empty: pieces of the targets, two or more in each."""
    min_copies: int = Field(2, ge=2)
    """Least copies of the piece."""
    max_copies: int = Field(3, ge=2)
    """Most copies: more than a reader needs to see a loop would cost length for nothing."""
    seed: int = Field(0, ge=0)
    """Seed of the draws."""

    @model_validator(mode="after")
    def _ordered(self) -> Recovery:
        if self.min_copies > self.max_copies:
            raise ValueError(f"min_copies {self.min_copies} is above max_copies {self.max_copies}")
        return self

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The rows, and the added ones behind them."""
        least = 1 if self.loop else 2
        usable = [at for at, row in enumerate(rows) if len(_pieces(row)) >= least]
        changes = Changes()
        changes.counts["rows too short for it"] = len(rows) - len(usable)
        draw = np.random.default_rng(self.seed)
        count = min(len(usable), math.ceil(self.share * len(usable)))
        added = []
        for at in sorted(draw.permutation(usable)[:count].tolist()):
            pieces = _pieces(rows[at])
            copies = int(draw.integers(self.min_copies, self.max_copies + 1))
            if self.loop:
                begun, rest, piece = "".join(pieces) + self.loop * copies, "", self.loop
            else:
                which = int(draw.integers(len(pieces) - 1))
                piece, rest = pieces[which], "".join(pieces[which + 1 :])
                begun = "".join(pieces[:which]) + _joined(piece) * (copies - 1) + piece
            added.append(_row(rows[at], begun, rest, _joined(piece) * copies))
            changes.note("recovery rows added", f"of row {at}: {shown(piece, 40)} x {copies}")
        return [*rows, *added], changes


def _pieces(row: Row) -> list[str]:
    pieces: list[str] = []
    for piece in _PIECE.findall(target(row) or ""):
        if pieces and not piece.strip():
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _joined(piece: str) -> str:
    """A piece that another copy may follow."""
    return piece if piece[-1].isspace() else piece + " "


def _row(row: Row, begun: str, rest: str, worse: str) -> Row:
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return {**row, "prompt": row["prompt"] + begun, "completion": rest, "loss_from": 0}
    column = next(name for name in LEARNED if name in row)
    changed = {**row, column: _said(row[column], begun + rest), "loss_from": len(begun)}
    if column == "chosen":
        changed["rejected"] = _said(row[column], begun + worse)
    return changed


def _said(value: Any, text: str) -> Any:
    """A column with another last answer: text, or turns."""
    if isinstance(value, str):
        return text
    last = max(at for at, turn in enumerate(value) if role_of(turn) == "assistant")
    if "from" in value[last]:
        return [*value[:last], {**value[last], "value": text}]
    return [*value[:last], {"role": "assistant", "content": text}]
