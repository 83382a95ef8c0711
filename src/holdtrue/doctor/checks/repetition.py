"""X03, X09: what data repeat, and pairs that prefer what repeats itself or is long."""

from __future__ import annotations

from holdtrue.data.examples import Example, texts_of
from holdtrue.data.near import RUN, NearDuplicates
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.gopher import repeats, repetition
from holdtrue.doctor.loops import looped
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tallies import Distinct, of_examples, shown
from holdtrue.intervals import wilson

FEW = 0.01
"""Share of the examples above which copies warn (ours)."""
LOOPS = 0.005
"""Share of looped targets that warns (ours): good answers of strong models have 0 to 0.3 %."""
MANY = 0.05
"""Share of looped targets that fails (ours)."""
LEAN = 0.6
"""Share of pairs in which the longer answer wins that warns (ours; its interval must lie above one half)."""
ALIKE = 1.5
"""Factor up to which two answers count as equally long: longer texts repeat more, whatever they say."""
MOST_COMPARED = 200_000
"""Targets among which near duplicates are looked for; each takes some 5 kB until they are found."""


@of_examples
class Repeats:
    """Copies among the examples, near duplicates among their first targets, and targets that repeat
    themselves."""

    def __init__(self, subject: Subject) -> None:
        self.targets = self.gopher = 0
        self.looped_at: list[str] = []
        self._different = Distinct()
        self._near = NearDuplicates()
        self._judged = bytearray()

    def see(self, one: Example) -> None:
        if not one.learned_texts:
            return
        target = one.target or ""
        self.targets += 1
        self._different.add(repr((one.messages, one.rejected, one.text)))
        if self.targets <= MOST_COMPARED:
            self._near.add(target)
            self._judged.append(len(target.split()) >= RUN)
        if any(map(looped, one.learned_texts)):
            self.looped_at.append(one.at)
        self.gopher += repeats(target) is not None

    @property
    def copies(self) -> int:
        """Examples that are exact copies of an earlier one."""
        return self.targets - len(self._different)

    @property
    def near(self) -> int:
        """Targets of several words that nearly equal an earlier one."""
        classes = enumerate(self._near.classes())
        return sum(first != i and bool(self._judged[i]) for i, first in classes)


@check("X03")
def repeated_data(subject: Subject) -> Results:
    """Examples that are there twice, targets that are near duplicates or loop; warns, and fails when over
    one target in twenty loops."""
    found = subject.counted(Repeats)
    total, twice, near, loops = found.targets, found.copies, found.near, found.looped_at
    if not total:
        raise Missing("no example has a target")
    values = {
        "targets": total,
        "same_examples": twice,
        "near_duplicate_targets": near,
        "looped_targets": len(loops),
        "gopher": found.gopher,
        "looped_at": loops,
    }
    among = f" (of the first {MOST_COMPARED:,})" if total > MOST_COMPARED else ""
    seen = (
        f"{twice} of {total} examples are exact copies of an earlier one, {near} targets nearly equal an "
        f"earlier one{among}; {len(loops)} targets loop; {found.gopher} "
        "exceed a limit of Gopher's filter of web text (which good answers with lists do too)"
    )
    faults: list[tuple[str, str]] = []
    remedies: list[str] = []
    if twice > FEW * total:
        remedies.append("dedupe")
        faults.append(("what is there many times is learned by heart", "drop the copies (dedupe)"))
    if len(loops) > LOOPS * total:
        remedies.append("drop_repetitive")
        faults.append(
            (
                "targets that loop teach loops; degeneration grows with the repetition in the data",
                f"drop the looped targets (drop_repetitive): {shown(loops)}",
            )
        )
    yield Finding(
        "X03",
        "fail" if len(loops) > MANY * total else "warn" if faults else "ok",
        seen,
        "; ".join(why for why, _ in faults),
        "; ".join(f for _, f in faults),
        "arXiv:2310.10226; arXiv:2112.11446 table A1" if faults else "",
        values | {"fix": {"remedies": remedies}},
    )


@of_examples
class Pairs:
    """Which answer of the pairs is chosen: the longer one, the more repetitive one, one that loops.

    Attributes:
        longer: pairs in which the longer answer is chosen; equally long ones count one half.
        clear: pairs of about equal length that differ in repetition; ``more``: the more repetitive is chosen.
        loops: chosen answers that loop, and rejected ones.
    """

    def __init__(self, subject: Subject) -> None:
        self.pairs = self.clear = self.more = 0
        self.longer = 0.0
        self.loops = [0, 0]

    def see(self, one: Example) -> None:
        if not one.rejected or one.target is None:
            return
        both = one.learned_texts, texts_of(one.rejected[-1])
        chosen, rejected = map("\n".join, both)
        self.pairs += 1
        self.longer += 1.0 if len(chosen) > len(rejected) else 0.5 * (len(chosen) == len(rejected))
        if len(chosen) < ALIKE * len(rejected) < ALIKE**2 * len(chosen):
            gap = repetition(chosen) - repetition(rejected)
            self.clear += abs(gap) > 0.05
            self.more += gap > 0.05
        for side, texts in enumerate(both):
            self.loops[side] += any(map(looped, texts))


@check("X09")
def bias_of_pairs(subject: Subject) -> Results:
    """Pairs in which the longer, or the more repetitive answer is chosen far more often than not; warns."""
    found = subject.counted(Pairs)
    pairs, longer, clear, more, loops = found.pairs, found.longer, found.clear, found.more, found.loops
    if not pairs:
        raise Missing("the data holds no pairs")
    interval, of_loops = wilson(longer, pairs), wilson(more, clear)
    values = {
        "pairs": pairs,
        "longer_chosen": longer / pairs,
        "interval": interval,
        "repetition_differs": clear,
        "more_repetitive_chosen": more / clear if clear else None,
        "looped_chosen": loops[0],
        "looped_rejected": loops[1],
    }
    seen = (
        f"the longer answer is chosen in {longer / pairs:.0%} of {pairs} pairs "
        f"({interval[0]:.0%} to {interval[1]:.0%}); of equally long ones the more "
        f"repetitive one in {more} of {clear} pairs that differ; "
        f"{loops[0]} chosen and {loops[1]} rejected answers loop"
    )
    faults: list[tuple[str, str]] = []
    if longer / pairs > LEAN and interval[0] > 0.5:
        faults.append(
            (
                "a reward model learns that longer is better",
                "balance the lengths: holdtrue train ... --set 'data.transforms=[balance_length]'",
            )
        )
    repetitive = (more > LEAN * clear and of_loops[0] > 0.5) or loops[0] > max(2, loops[1])
    if repetitive:
        faults.append(
            (
                "a reward model learns to like repetition",
                "drop pairs whose chosen answer repeats itself (drop_repetitive)",
            )
        )
    yield Finding(
        "X09",
        "warn" if faults else "ok",
        seen,
        "; ".join(why for why, _ in faults),
        "; ".join(f for _, f in faults),
        "PKU-Alignment/safe-rlhf#71" if faults else "",
        values | {"fix": {"remedies": ["drop_repetitive"] if repetitive else []}},
    )
