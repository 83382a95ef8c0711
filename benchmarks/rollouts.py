"""How well and how fast the rollout detectors work on real answers with labels.

python benchmarks/rollouts.py            (--speed: how fast, by kind of answer and by length)

Prompts are split in two by hash. The thresholds of the two loop detectors are chosen on one half (best
recall less five times the false alarms; of a plateau the middle), and everything is reported on the
other, for the chosen and for the shipped values. Data is read from ``$HOLDTRUE_SHARED/data`` (default:
``shared`` beside the repository).
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from holdtrue.doctor.detectors import Detector
from holdtrue.doctor.detectors.near_loop import NearLoop
from holdtrue.doctor.detectors.tail_cycle import TailCycle
from holdtrue.doctor.rollouts import Row, every_detector, examine
from holdtrue.doctor.sources import read_rollouts
from holdtrue.intervals import wilson
from holdtrue.records import Rollout

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOLDTRUE_SHARED", ROOT.parent / "shared")) / "data"
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COVERS = (60, 100, 150, 200, 300)


def group(rollout: Rollout) -> str:
    """What an answer is labelled: normal, hard negative, ambiguous, or its kind of fault."""
    meta = rollout.meta
    if meta["label"] == "ok":
        return "hard negative" if meta["kind"].startswith("hard") else "normal"
    return "ambiguous" if meta["ambiguous"] else str(meta["kind"])


def detectors(share: float, half: float, cover: int) -> list[Detector]:
    """All detectors, the two loop detectors with these thresholds."""
    own = [NearLoop(share=share, share_of_half=half), TailCycle(min_cover=cover)]
    return [*(one for one in every_detector() if not isinstance(one, (NearLoop, TailCycle))), *own]


def score(rows: Sequence[Row]) -> float:
    """Recall of unambiguous faults less five times the rate of false alarms."""
    bad = [row.verdict == "fail" for row in rows if group(row.rollout) not in _KIND_OF_OK | {"ambiguous"}]
    good = [row.verdict == "fail" for row in rows if group(row.rollout) in _KIND_OF_OK]
    return statistics.fmean(bad) - 5 * statistics.fmean(good)


_KIND_OF_OK = {"normal", "hard negative"}


def choose(rollouts: Sequence[Rollout]) -> tuple[float, float, int]:
    """The thresholds with the best score; of several the one nearest to the middle of them."""
    grid = list(itertools.product(SHARES, SHARES, COVERS))
    scores = {values: score(examine(rollouts, detectors=detectors(*values)).rows) for values in grid}
    best = [values for values in grid if scores[values] == max(scores.values())]
    middle = [statistics.fmean(SHARES.index(v[i]) for v in best) for i in (0, 1)]
    middle.append(statistics.fmean(COVERS.index(v[2]) for v in best))
    places = {v: (SHARES.index(v[0]), SHARES.index(v[1]), COVERS.index(v[2])) for v in best}
    return min(best, key=lambda v: sum((a - b) ** 2 for a, b in zip(places[v], middle, strict=True)))


def report(name: str, rows: Sequence[Row]) -> None:
    """Rates by label with Wilson intervals, and how near the onsets are."""
    print(f"\n{name}")
    parts: dict[str, list[bool]] = defaultdict(list)
    errors = []
    for row in rows:
        parts[group(row.rollout)].append(row.verdict == "fail")
        if group(row.rollout) not in _KIND_OF_OK | {"ambiguous"}:
            parts["all faults"].append(row.verdict == "fail")
        onset = row.rollout.meta["onset_char"]
        starts = [flag.start for flag in row.flags if flag.severity == "fail" and flag.start is not None]
        if row.rollout.meta["label"] == "degenerate" and onset is not None and starts:
            errors.append(abs(min(starts) - onset))
    for key in sorted(parts):
        count, total = sum(parts[key]), len(parts[key])
        low, high = wilson(count, total)
        print(f"  {key:18} {count:4} of {total:4} flagged: {count / total:.3f} [{low:.3f}, {high:.3f}]")
    within = statistics.fmean(error <= 64 for error in errors)
    middle = statistics.median(errors)
    print(f"  onset within 64 characters: {within:.3f} of {len(errors)}, median error {middle:.0f}")


def speed(rounds: int = 5) -> None:
    """CPU time of all detectors on healthy and on degenerate answers, medians of rounds."""
    policies = read_rollouts([str(DATA / "alpaca_eval_policies")]).rollouts
    labelled = read_rollouts([str(DATA / "rollout_doctor" / "dev.jsonl.gz")]).rollouts
    for name, rollouts in (
        ("alpaca_eval_policies", policies),
        ("rollout_doctor, half of it loops", labelled),
    ):
        size = sum(len(rollout.text.encode()) for rollout in rollouts) / 1e6
        seconds = []
        for _ in range(rounds):
            start = time.process_time()
            examine(rollouts)
            seconds.append(time.process_time() - start)
        middle = statistics.median(seconds)
        print(
            f"{name}: {len(rollouts):,} answers, {size:.1f} MB, {middle:.2f} CPU s, {size / middle:.1f} MB/s"
        )


def growth(rounds: int = 5) -> None:
    """CPU milliseconds of all detectors on one answer of 10 thousand to a million characters, by its kind."""
    labelled = read_rollouts([str(DATA / "rollout_doctor" / "dev.jsonl.gz")]).rollouts
    prose = "\n\n".join(rollout.text for rollout in labelled if rollout.meta["label"] == "ok")
    draw = random.Random(0)
    han = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(1_000_000))
    line = " ".join(prose.split()[:12])
    texts = {
        "healthy answers one after the other": itertools.cycle(prose),
        "one character": itertools.repeat("a"),
        **{f"a loop of {period:,}": itertools.cycle(prose[:period]) for period in (40, 100, 500, 2000)},
        "a line with a counter and a number": itertools.chain.from_iterable(
            f"{i}. {line} {draw.randrange(1000)}\n" for i in itertools.count()
        ),
        "Chinese characters at random": iter(han),
        "a loop of 30 Chinese characters": itertools.cycle(han[:30]),
        "control tokens": itertools.cycle("<|im_start|>"),
        "tool calls, all the same": itertools.cycle("<tool_call>{}</tool_call>"),
    }
    for name, characters in texts.items():
        text = "".join(itertools.islice(characters, 1_000_000))
        spent = []
        for size in (10_000, 100_000, 1_000_000):
            seconds = []
            for _ in range(rounds):
                start = time.process_time()
                examine([Rollout("Say something.", text[:size])])
                seconds.append(time.process_time() - start)
            spent.append(1e3 * statistics.median(seconds))
        print(f"{name:36}" + "".join(f"{one:10.1f}" for one in spent) + " ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true", help="measure the speed instead")
    if parser.parse_args().speed:
        speed()
        growth()
        return
    rollouts = read_rollouts([str(DATA / "rollout_doctor" / "dev.jsonl.gz")]).rollouts
    halves = [[r for r in rollouts if int(r.prompt_key, 16) % 2 == half] for half in (0, 1)]
    chosen = choose(halves[0])
    share, half, cover = chosen
    print(f"chosen on {len(halves[0])} answers: share {share}, share_of_half {half}, min_cover {cover}")
    report("the other half, chosen thresholds", examine(halves[1], detectors=detectors(*chosen)).rows)
    report("the other half, shipped thresholds", examine(halves[1]).rows)
    report("all answers, shipped thresholds", examine(rollouts).rows)


if __name__ == "__main__":
    main()
