"""Going back at a grave alarm: to which checkpoint, which ones are kept for it, what is different afterwards.

The policy goes back to the last checkpoint from before the step at which the first change that now stands
alarmed began, at the latest to the beginning (a checkpoint of step 0). What is different then:

- the learning rate is halved, as OPT-175B was brought past its divergences: a lower rate from an earlier
  checkpoint (arXiv 2205.01068, section 2.5);
- prompts and draws are others, as for PaLM's spikes: an earlier checkpoint and other batches, the same
  batches from another state being harmless (arXiv 2204.02311, section 5.1).

Neither paper is about rewards that are exploited: that comes again, later and slower. So a run goes back at
most ``guard.max_rollbacks`` times. At the next grave alarm it goes back all the same, and ends there: what is
saved is the last policy that was well.

Steps are numbered on, so every row of a run's files has a step of its own, and a step its own draws. Those
that were taken back stay in the files; the row of the rollback says which they are
(:func:`~holdtrue.rundir.standing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from holdtrue.health.advice import Alarm
from holdtrue.policy import checkpoints
from holdtrue.policy.checkpoints import Changing, State
from holdtrue.policy.settings import GuardSettings
from holdtrue.rundir import RunDir
from holdtrue.training import checkpoint

FACTOR = 0.5
"""Of the learning rate, at each rollback."""


def havens(kept: Iterable[int], step: int, onsets: Iterable[int]) -> list[int]:
    """Steps whose checkpoints an alarm may go back to once that of ``step`` is saved.

    Args:
        kept: those from before.
        onsets: steps that an alarm may yet name as its onset.

    Returns:
        The beginning, the last one before each onset, and the newest, in order.
    """
    every = sorted({*kept, step})
    before = [max((one for one in every if one < onset), default=0) for onset in onsets]
    return sorted({0, step, *before})


def bests(found: Sequence[int], havens: Sequence[int]) -> list[int]:
    """Of the steps that were the best, in order, the last one and those that were it at a haven."""
    before = {max((one for one in found if one <= haven), default=None) for haven in havens}
    return [one for one in found if one in before or one == found[-1]]


def respond(run: RunDir, changing: Changing, alarm: Alarm, guard: GuardSettings) -> dict[str, Any] | None:
    """Do what the settings say at a grave alarm: nothing, end the run (``state.stopped``), or go back.

    Returns:
        What ``metrics.jsonl`` says of a rollback; None where there is none.
    """
    if guard.on_alarm == "warn":
        return None
    seen = f"{alarm.cause} since step {changing.monitor.onset_step}, seen at step {alarm.step}"
    row = None
    if guard.on_alarm == "rollback":
        row = go_back(run, changing, alarm, seen, guard.max_rollbacks)
        if row is None:
            seen += ", and no checkpoint from before is whole"
    if row is None:
        changing.state.stopped = seen
    return row


def kept(state: State) -> int:
    """The step whose policy stands after the last one: its own, or where an alarm at it took it back to."""
    last = state.rollbacks[-1] if state.rollbacks else None
    return int(last["to"]) if last is not None and last["step"] == state.step else state.step


def go_back(run: RunDir, changing: Changing, alarm: Alarm, seen: str, most: int) -> dict[str, Any] | None:
    """Put back what changes as it was before the first change that stands alarmed; what happened since stays
    counted. After ``most`` times the run is ``stopped`` as well.

    Args:
        seen: which change it is, in words.

    Returns:
        The row of the rollback; None where no checkpoint from before is whole.
    """
    now, onset = changing.state, changing.monitor.onset_step
    assert onset is not None  # that of the alarm at the latest
    before = [step for step in now.havens if step < onset]
    found = next((one for step in reversed(before) if (one := checkpoint.newest(run, at=step))), None)
    if found is None:
        return None
    at, folder = found
    checkpoints.load(folder, changing)
    then = changing.state
    to, number = kept(then), len(now.rollbacks) + 1
    policy = f"that of step {to}" if to else "the one it began with"
    back = f"{seen}: the policy is again {policy}"
    if number > most:
        back += f"; training ends here, as all rollbacks are used up (guard.max_rollbacks {most})"
    else:
        back += (
            f"; learning goes on as step {alarm.step + 1} at the learning rate x {FACTOR**number:g}, with "
            f"other prompts and draws (rollback {number} of {most})"
        )
    row = {"event": "rollback", "step": alarm.step, "to": to, "onset": onset, "cause": alarm.cause}
    row["text"] = back
    changing.state = replace(
        now,
        stopped=back if number > most else None,
        learnt=then.learnt,
        updates=then.updates,
        best_step=then.best_step,
        best_value=then.best_value,
        bests=then.bests,
        stale=then.stale,
        rollbacks=[*now.rollbacks, row],
        havens=[step for step in before if step <= at],
    )
    return row
