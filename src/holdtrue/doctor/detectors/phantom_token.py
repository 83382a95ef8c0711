"""Ids that no tokenizer knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading


class PhantomToken(Detector):
    """Ids from the padded end of the logits, for which there is no token. Any fails."""

    needs: ClassVar = frozenset({"completion_ids", "vocabulary"})
    why: ClassVar = (
        "Never seen, so never punished: as the policy drifts their probability rises until engines crash."
    )
    fix: ClassVar = "Mask the logits from the tokenizer's length on (doctor check prints the mask: T04)."
    source: ClassVar = "vllm-project/vllm#13175; verl-project/verl#1398"

    def check(self, reading: Reading) -> Iterator[Flag]:
        """All phantoms of the body as one flag."""
        vocabulary = reading.vocabulary
        assert vocabulary is not None
        places = np.flatnonzero((reading.body >= vocabulary.size) | (reading.body < 0))
        if len(places):
            first, last = int(places[0]), int(places[-1]) + 1
            ids = sorted(set(reading.body[places].tolist()))
            yield self.flag(
                "fail",
                f"{len(places)} of {len(reading.body)} ids are not below {vocabulary.size}: {ids[:3]}",
                span=reading.characters(first, last),
                tokens=(first, last),
                ids=ids[:20],
            )
