"""A policy is trained into a collapse; the Monitor says so while the task is still solved.

A table of logits over (asked token, last token) learns by policy gradient with group advantages (GRPO) to
write ``CALL x END EOS``. It starts with a rare bad habit, ``END (START NL) x 1, 2, ... EOS``, and its reward
has the fault of Visual-Agent/DeepEyes#131: x is read before END, and every START token is paid for. An answer
that is cut solves nothing. This shows the mechanism and the order of events, in a policy that is no more than
a table; it says nothing about how soon a language model would collapse.
"""

import numpy as np
import pytest

from holdtrue.doctor import Monitor
from holdtrue.health.advice import Actions
from holdtrue.health.batch import Batch
from holdtrue.health.changes import Limit
from holdtrue.health.stream import RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary

ASKED, CALL, END, START, NL, EOS, WIDTH, LONGEST = 8, 8, 9, 10, 11, 12, 13, 24
PROMPTS, GROUP, STEPS = 16, 8, 150
VOCABULARY = Vocabulary(eos=frozenset({EOS}), control=frozenset({START}), size=WIDTH)
HABIT = 0.05


def first_policy():
    """Logits (asked, last token, next token) of the demonstrations: 80 % right, 5 % with the habit."""
    p = np.full((ASKED, WIDTH, WIDTH), 1e-4)
    for x in range(ASKED):
        p[x, EOS, CALL] = 1  # an answer begins behind the prompt's end
        p[x, CALL, :ASKED] = 0.2 / ASKED
        p[x, CALL, x] += 0.8
        p[x, :ASKED, END] = 1
        p[x, END, [EOS, START]] = 1 - HABIT, HABIT
        p[x, START, NL] = 1
        p[x, NL, [START, EOS]] = 5 / 7, 2 / 7
    return np.log(p / p.sum(-1, keepdims=True))


def sample(logits, asked, rng):
    """Answers (R, LONGEST) and how many tokens each has."""
    ids = np.full((len(asked), LONGEST), EOS)
    last = np.full(len(asked), EOS)
    lengths = np.zeros(len(asked), dtype=int)
    running = np.ones(len(asked), dtype=bool)
    for t in range(LONGEST):
        gumbel = rng.gumbel(size=(len(asked), WIDTH))
        ids[running, t] = (logits[asked, last] + gumbel).argmax(-1)[running]
        lengths += running
        last = ids[:, t]
        running &= last != EOS
    return ids, lengths


def solved(ids, lengths, asked):
    ended = ids[np.arange(len(ids)), lengths - 1] == EOS
    return ((ids[:, 0] == CALL) & (ids[:, 1] == asked) & (ids[:, 2] == END) & ended).astype(float)


def train(seed, *, actions=None):
    """What the monitor said, and the shares of solved and looping answers at every step."""
    rng = np.random.default_rng(seed)
    logits = first_policy()
    monitor = Monitor(
        VOCABULARY,
        actions=actions or Actions(),
        rule=RepetitionDetection(max_pattern_size=4, min_count=3, min_cover=6),
        # The habit is known, so that a few control tokens are no news; only more of them are.
        limits={"control": Limit(floor=0.02, share=True)},
    )
    asked = rng.integers(0, ASKED, 256)
    ids, lengths = sample(logits, asked, rng)
    monitor.calibrate(Batch(ids=[row[:n] for row, n in zip(ids, lengths, strict=True)], step=0))
    alarms, task, loops = [], [], []
    for step in range(STEPS):
        asked = np.repeat(rng.integers(0, ASKED, PROMPTS), GROUP)
        ids, lengths = sample(logits, asked, rng)
        right = solved(ids, lengths, asked)
        reward = right + 0.15 * (ids == START).sum(1)
        rows = [row[:n] for row, n in zip(ids, lengths, strict=True)]
        groups = np.repeat(np.arange(PROMPTS), GROUP)
        alarms += monitor.update(Batch(ids=rows, step=step, rewards=reward, groups=groups))
        advice = monitor.advise()
        task.append(right.mean())
        loops.append(monitor.values["loop"])

        paid = (reward - advice.penalty).reshape(PROMPTS, GROUP)
        advantage = ((paid - paid.mean(1, keepdims=True)) / (paid.std(1, keepdims=True) + 1e-4)).ravel()
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
        gradient = np.zeros_like(logits)
        last = np.concatenate([np.full((len(ids), 1), EOS), ids[:, :-1]], axis=1)
        for t in range(LONGEST):
            on = lengths > t
            a = (advantage / lengths)[on, None]
            at = asked[on], last[on, t]
            np.add.at(gradient, at, -a * p[at])
            np.add.at(gradient, (*at, ids[on, t]), a[:, 0])
        logits = logits + 0.15 * gradient
    return alarms, np.array(task), np.array(loops)


@pytest.mark.parametrize("seed", range(3))
def test_the_monitor_alarms_long_before_the_task_is_lost(seed):
    alarms, task, loops = train(seed)
    assert task.max() > 0.95 and task[-10:].mean() < 0.1, "the reward does not lead into a collapse"
    flooded = int(np.argmax(loops > 0.3))
    lost = int(np.argmax(task < 0.5))
    assert lost > flooded > 20
    # Seen: alarms from step 9, 18, 20 on; 30 % of the answers loop at 25-29; half are unsolved at 45-47.
    first = min(alarm.step for alarm in alarms)
    assert first <= flooded - 5
    assert first <= lost - 20
    assert {"LOOP", "CONTROL_TOKEN_IN_ANSWER", "SCORE_UP_TEXT_DOWN"} <= {alarm.cause for alarm in alarms}


@pytest.mark.parametrize("seed", range(3))
def test_a_penalty_on_what_the_monitor_sees_removes_the_habit(seed):
    _, task, loops = train(seed, actions=Actions(penalise=3.0))
    assert task[-20:].mean() >= 0.95
    assert loops[-20:].mean() <= 0.01  # 3 % at the start, 97 % without the penalty
