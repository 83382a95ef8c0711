import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.doctor import Monitor
from holdtrue.errors import DataError, SettingsError
from holdtrue.health.advice import Actions
from holdtrue.health.batch import Batch
from holdtrue.health.changes import Limit
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.records import Rollout

EOS, OTHER_EOS, PAD, START, ODD, SIZE = 2, 3, 0, 4, 5, 1000
VOCABULARY = Vocabulary(
    eos=frozenset({EOS, OTHER_EOS}),
    control=frozenset({START, PAD}),
    size=SIZE,
    pad=PAD,
    attractors=frozenset({ODD}),
    digits=frozenset(range(10, 20)),
)
HEALTHY_LENGTH = (30, 60)


def healthy(rng, rows=64, **more):
    """Answers of words that hardly repeat, each with its end."""
    ids = [[*rng.integers(100, SIZE, rng.integers(*HEALTHY_LENGTH)).tolist(), EOS] for _ in range(rows)]
    return {"ids": ids, "finish": ["stop"] * rows, **more}


def calibrated(rng, rows=256, **more):
    monitor = Monitor(VOCABULARY, **more)
    monitor.calibrate(Batch(step=0, **healthy(rng, rows)))
    return monitor


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def looping(rng):
    return [*rng.integers(100, SIZE, 20).tolist(), *[200, 201, 202] * 40]


def causes(alarms):
    return {alarm.cause for alarm in alarms}


def test_healthy_rollouts_of_a_hundred_steps_raise_no_alarm(rng):
    monitor = calibrated(rng)
    for step in range(100):
        batch = healthy(rng, rewards=rng.normal(size=64), groups=np.repeat(np.arange(16), 4))
        assert monitor.update(Batch(step=step, **batch)) == []
    assert monitor.healthy_step == 99


def test_noisy_rollouts_that_stay_as_they_were_hardly_alarm_while_the_reward_rises(rng):
    def noisy(rows):
        batch = healthy(rng, rows)
        for row, luck in enumerate(rng.random(rows)):
            if luck < 0.02:
                batch["ids"][row], batch["finish"][row] = looping(rng), "length"
            elif luck < 0.12:
                batch["ids"][row], batch["finish"][row] = batch["ids"][row][:-1], "length"
        return batch

    monitor = Monitor(VOCABULARY)
    monitor.calibrate(Batch(step=0, **noisy(256)))
    groups = np.repeat(np.arange(16), 4)
    alarms = []
    for step in range(150):
        rewards = rng.normal(0.02 * step, 0.5, 64)
        alarms += monitor.update(Batch(step=step, rewards=rewards, groups=groups, **noisy(64)))
    assert len(alarms) <= 1  # over ten seeds of 100 steps there was one


def test_loops_that_become_frequent_are_found_with_rows_onset_and_step(rng):
    monitor = calibrated(rng)
    for step in range(5):
        monitor.update(Batch(step=step, **healthy(rng)))
    found = []
    for step in range(5, 10):
        batch = healthy(rng)
        for row in (7, 30, 41):  # 5 %: below the limit of 20 %, found by the change
            batch["ids"][row] = looping(rng)
            batch["finish"][row] = "length"
        found += monitor.update(Batch(step=step, **batch))
    [alarm] = [one for one in found if one.cause == "LOOP"]
    assert alarm.severity == "warn"
    assert alarm.step <= 7 and alarm.onset_step == 5
    assert alarm.value == pytest.approx(3 / 64) and alarm.calibration == 0
    assert [(one.row, one.onset) for one in alarm.examples] == [(7, 20), (30, 20), (41, 20)]
    assert monitor.healthy_step == 4
    assert "LOOP: loop is 0.0469 (0 in the calibration), since step 5" in str(alarm)


def test_a_counter_is_found_as_a_loop_of_its_numbers(rng):
    batch = healthy(rng)
    for row in range(20):
        steps = [token for n in range(1, 60) for token in (300, *(10 + int(d) for d in str(n)), 301, 302)]
        batch["ids"][row] = [*rng.integers(100, SIZE, 20).tolist(), *steps]
    alarms = calibrated(rng).update(Batch(step=1, **batch))
    assert causes(alarms) >= {"COUNTER_LOOP"}
    assert "LOOP" not in causes(alarms)


def test_control_phantom_and_attractor_tokens_inside_answers(rng):
    batch = healthy(rng)
    batch["ids"][3][5:7] = [START, START]
    batch["ids"][4][8] = SIZE + 7
    for row in range(10, 16):
        batch["ids"][row][2] = ODD
    monitor = calibrated(rng)
    alarms = {one.cause: one for one in monitor.update(Batch(step=1, **batch))}
    assert [(one.row, one.onset) for one in alarms["CONTROL_TOKEN_IN_ANSWER"].examples] == [(3, 5)]
    assert [(one.row, one.onset) for one in alarms["PHANTOM_TOKEN"].examples] == [(4, 8)]
    assert "ATTRACTOR_TOKEN" not in alarms  # one batch is no change
    batch = healthy(rng)
    for row in range(10, 16):
        batch["ids"][row][2] = ODD
    assert causes(monitor.update(Batch(step=2, **batch))) == {"ATTRACTOR_TOKEN"}


def test_the_end_token_and_padding_behind_it_are_no_control_tokens(rng):
    batch = healthy(rng)
    width = max(map(len, batch["ids"])) + 200
    padded = np.full((64, width), PAD)
    for row, ids in zip(padded, batch["ids"], strict=True):
        row[: len(ids)] = ids
    monitor = calibrated(rng)
    assert monitor.update(Batch(ids=padded, step=1, finish=None)) == []
    assert monitor.values["truncated"] == 0


def test_what_tools_wrote_is_left_out_and_positions_stay_those_of_the_row(rng):
    batch = healthy(rng)
    ids = [300, 301, START, START, START, 302, START, EOS]
    batch["ids"][0] = ids
    mask = [[1] * len(row) for row in batch["ids"]]
    mask[0] = [1, 1, 0, 0, 0, 1, 1, 1]
    [alarm] = calibrated(rng).update(Batch(step=1, mask=mask, **batch))
    assert [(one.row, one.onset) for one in alarm.examples] == [(0, 6)]


def test_nan_logits_are_named_and_not_taken_for_a_loop(rng):
    """Acceptance case 11: id 0 x 400, log-probabilities NaN."""
    ids = [[0] * 400] * 64
    vocabulary = Vocabulary(eos=frozenset({EOS}), size=SIZE)
    for logprobs in ([[math.nan] * 400] * 64, None):
        alarms = Monitor(vocabulary).update(Batch(ids=ids, step=1, logprobs=logprobs, finish=["length"] * 64))
        assert causes(alarms) == {"NAN_LOGITS"}
        assert "bf16" in alarms[0].fix and alarms[0].severity == "fail"


def gaps(rng, level, rows=32):
    batch = healthy(rng, rows)
    sampled = [-rng.exponential(1, len(row)) for row in batch["ids"]]
    # abs of a normal has mean 0.8 sd
    trained = [one + rng.normal(0, level / 0.8, len(one)) for one in sampled]
    return {**batch, "logprobs": sampled, "trained_logprobs": trained}


def test_a_gap_that_grows_and_falls_back_at_a_restart_is_a_stale_engine(rng):
    """Acceptance case 12: .011 -> .036 in 30 steps, reset on restart."""
    monitor = Monitor(VOCABULARY)
    monitor.calibrate(Batch(step=0, **gaps(rng, 0.011, 64)))
    found = []
    for step in range(80):
        level = 0.011 if step < 10 else 0.011 + 0.025 * ((step - 10) % 35) / 30
        found += monitor.update(Batch(step=step, **gaps(rng, level)))
    assert causes(found) == {"GAP_TREND"}
    assert len(found) == 2
    first, second = found
    assert 8 <= first.onset_step <= 18
    assert 18 <= first.step <= 35 and "fell back" not in first.why
    assert 45 < second.step <= 75 and "fell back when the engine started anew" in second.why
    assert "not a collapse of the policy" in first.why


def test_a_flat_gap_is_none(rng):
    monitor = Monitor(VOCABULARY)
    monitor.calibrate(Batch(step=0, **gaps(rng, 0.011, 64)))
    assert [a for step in range(60) for a in monitor.update(Batch(step=step, **gaps(rng, 0.011)))] == []


def test_answers_that_are_all_cut_are_no_loops(rng):
    """Acceptance case 13: cap 24, everything cut, reward 0."""
    batch = healthy(rng, rewards=[0.0] * 64, groups=np.repeat(np.arange(16), 4))
    batch["ids"] = [row[:24] for row in batch["ids"]]
    batch["finish"] = ["length"] * 64
    alarms = calibrated(rng).update(Batch(step=1, **batch))
    assert causes(alarms) == {"TRUNCATION"}
    assert "raise the cap on new tokens; 95 % of the calibration's answers have 5" in alarms[0].fix
    assert "flat_reward" not in {one.metric for one in alarms}


def test_an_end_token_the_trainer_does_not_know(rng):
    """Acceptance case 14: the trainer counts .97 as cut; they ended on the second EOS."""
    batch = healthy(rng)
    for row in range(60):
        batch["ids"][row][-1] = OTHER_EOS
        batch["finish"][row] = "length"
    [alarm] = calibrated(rng).update(Batch(step=1, **batch))
    assert alarm.cause == "MULTIPLE_EOS"
    assert "94% ended on 3" in alarm.why


def test_the_reward_rises_while_the_text_gets_worse(rng):
    monitor = Monitor(VOCABULARY)
    found = []
    for step in range(20):
        batch = healthy(rng, rewards=rng.normal(0.05 * step, 0.1, 64))
        words = 400 - 20 * step  # the answers come from fewer and fewer words, none of them loops
        batch["ids"] = [[*rng.integers(100, 101 + words, 40), EOS] for _ in range(64)]
        for row in range(0, 64, 2):
            half = batch["ids"][row][:20]
            batch["ids"][row][20 : 20 + step] = half[:step]
        found += monitor.update(Batch(step=step, **batch))
    assert causes(found) == {"SCORE_UP_TEXT_DOWN"}
    assert found[0].metric == "seq_rep_4"


@pytest.mark.parametrize(("rate", "cause"), [(0.04, {"SCORE_UP_TEXT_DOWN"}), (0.0, set())])
def test_win_rates_on_held_out_prompts_rise_while_the_text_gets_worse(rng, rate, cause):
    monitor = Monitor(VOCABULARY)
    found, within = [], []
    for step in range(10):
        batch = healthy(rng)
        for row in batch["ids"]:  # they say more and more of themselves again
            row[:-1] = [*row[:20], *row[: 2 * step]]
        wins = rng.random(64) < 0.5  # of the others in the group: a half, however good the policy is
        within += monitor.update(Batch(step=step, rewards=wins, **batch))
        rewards = rng.normal(0.5 + rate * step, 0.05, 64)
        alarms = monitor.update_held_out(Batch(step=step, rewards=rewards, **batch))
        assert not alarms or step >= 5  # it takes six
        found += alarms
        monitor.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert (causes(found), causes(within)) == (cause, set())
    assert [(one.severity, one.onset_step, one.metric) for one in found] == [("warn", 0, "seq_rep_4")] * len(
        cause
    )


def test_what_is_learned_from_junk_is_measured(rng):
    batch = healthy(rng, rows=2)
    batch["ids"] = [[300, 301, START, START, EOS], [300, 301, 302, 303, EOS]]
    monitor = Monitor(VOCABULARY)
    alarms = monitor.update(Batch(step=1, advantages=[1.0, -1.0], **batch))
    # 2 of 10 tokens, all with an advantage of 1
    assert monitor.values["advantage_on_junk"] == pytest.approx(0.2)
    assert "REWARD_BLIND_TO_JUNK" in causes(alarms)


def test_nothing_is_advised_unless_it_was_asked_for(rng):
    batch = healthy(rng)
    batch["ids"][1], batch["finish"][1] = looping(rng), None
    for row in range(10, 40):
        batch["ids"][row] = looping(rng)
    rewards = [1.0, math.nan, None, *[0.5] * 61]
    quiet = calibrated(rng)
    quiet.update(Batch(step=7, rewards=rewards, **batch))
    advice = quiet.advise()
    assert advice.keep.all() and not advice.penalty.any() and not advice.abort.any()
    assert (advice.learning_rate, advice.kl, advice.stop, advice.rollback_to) == (1, 1, False, None)
    assert advice.reasons[1] == "loop" and advice.reasons[0] is None

    all_of_it = Actions(True, True, 2.0, 0.5, 3.0, True, True)
    acting = calibrated(rng, actions=all_of_it)
    acting.update(Batch(step=6, **healthy(rng)))
    alarms = acting.update(Batch(step=7, rewards=rewards, **batch))
    assert causes(alarms) >= {"LOOP", "BAD_REWARD"}
    advice = acting.advise()
    assert np.flatnonzero(~advice.keep).tolist() == [1, *range(10, 40)]
    assert np.flatnonzero(advice.abort).tolist() == [1]
    assert advice.penalty[1] == 2 and advice.penalty[0] == 0
    assert (advice.learning_rate, advice.kl, advice.stop, advice.rollback_to) == (0.5, 3.0, True, 6)


def test_where_all_that_stands_alarmed_began_and_where_what_is_to_come_may_have_begun(rng):
    monitor = calibrated(rng)
    for step in range(20):
        monitor.update(Batch(step=step, **healthy(rng)))
    assert monitor.onset_step is None
    # a trend is read from ten steps, the next one being the last of them
    assert set(range(11, 20)) <= monitor.possible_onsets
    batch = healthy(rng)
    for row in range(40):
        batch["ids"][row] = looping(rng)
    monitor.update(Batch(step=20, **batch))
    assert monitor.onset_step == 20 and monitor.healthy_step == 19
    for step in range(21, 40):
        monitor.update(Batch(step=step, **healthy(rng)))
    loops = monitor.state_dict()["changes"]["loop"]
    assert loops["since"] is None or loops["since"] in monitor.possible_onsets


def test_a_monitor_goes_on_from_its_saved_state(rng):
    batches = []
    for step in range(24):
        batch = healthy(rng, rewards=rng.normal(size=64))
        if step > 8:
            batch["ids"][5] = batch["ids"][6] = looping(rng)
        batches.append(Batch(step=step, **batch))
    straight = calibrated(np.random.default_rng(5))
    whole = [straight.update(batch) for batch in batches]
    broken = calibrated(np.random.default_rng(5))
    parts = [broken.update(batch) for batch in batches[:10]]
    state = json.dumps(broken.state_dict(), allow_nan=False)
    resumed = Monitor(VOCABULARY)
    resumed.load_state_dict(json.loads(state))
    assert parts + [resumed.update(batch) for batch in batches[10:]] == whole
    assert any(whole)
    assert resumed.state_dict() == straight.state_dict()


def test_lists_arrays_and_tensors_are_the_same(rng):
    torch = pytest.importorskip("torch")
    batch = gaps(rng, 0.011, 64)
    values = []
    for make in (list, np.array, lambda x: torch.tensor(np.array(x))):
        monitor = Monitor(VOCABULARY)
        monitor.update(
            Batch(
                step=1,
                **{
                    **batch,
                    **{k: [make(r) for r in batch[k]] for k in ("ids", "logprobs", "trained_logprobs")},
                },
            )
        )
        values.append(monitor.values)
    assert values[0] == values[1] == values[2]
    half = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    Monitor(VOCABULARY).update(Batch(ids=torch.ones(2, 3, dtype=torch.long), step=1, logprobs=half))


def test_rollouts_of_files_are_a_batch():
    rollouts = [
        Rollout(prompt="q", answer="a", completion_ids=[300, 301, EOS], reward=1.0, finish="stop"),
        Rollout(prompt="q", answer="b", completion_ids=[300, 301, EOS], reward=0.0, logprobs=[-1, -1, -1]),
    ]
    monitor = Monitor(VOCABULARY)
    assert monitor.update(Batch.of(rollouts, 3)) == []
    assert monitor.values["reward"] == 0.5 and monitor.values["flat_reward"] == 0
    with pytest.raises(DataError, match="1 of 1 rollouts hold no token ids"):
        Batch.of([Rollout(prompt="q", answer="a")], 3)


cells = st.one_of(st.none(), st.floats(allow_nan=True, width=32))


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-5, 1100), max_size=9),
            cells,
            st.sampled_from([None, "stop", "length", "odd"]),
        ),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_batch_breaks_it(rows):
    monitor = Monitor(VOCABULARY, actions=Actions(exclude=True))
    for step in range(3):
        ids = [row[0] for row in rows]
        monitor.update(
            Batch(
                ids=ids,
                step=step,
                rewards=[row[1] for row in rows],
                advantages=[row[1] for row in rows],
                finish=[row[2] for row in rows],
                logprobs=[[row[1] if row[1] is not None else -1.0] * len(row[0]) for row in rows],
                trained_logprobs=[None if row[1] is None else [-1.0] * len(row[0]) for row in rows],
                groups=[i // 2 for i in range(len(rows))],
            )
        )
    assert len(monitor.advise().keep) == len(rows)
    json.dumps(monitor.state_dict(), allow_nan=False)


def test_what_cannot_be_used_is_refused(rng):
    monitor = Monitor(VOCABULARY)
    with pytest.raises(DataError, match="64 rollouts of the reference model; seen 63"):
        monitor.calibrate(Batch(step=0, **healthy(rng, 63)))
    with pytest.raises(DataError, match="rewards has 1 rows where ids has 2"):
        monitor.update(Batch(ids=[[1], [2]], step=0, rewards=[1.0]))
    with pytest.raises(DataError, match="logprobs of row 1 has 2 values where ids has 1"):
        monitor.update(Batch(ids=[[1], [2]], step=0, logprobs=[None, [0.0, 0.0]]))
    with pytest.raises(DataError, match="token ids are integers"):
        monitor.update(Batch(ids=[[0.5]], step=0))
    with pytest.raises(DataError, match="call update first"):
        Monitor(VOCABULARY).advise()
    with pytest.raises(SettingsError, match="unknown metric 'lop'; did you mean 'loop'"):
        Monitor(VOCABULARY, limits={"lop": Limit()})
    with pytest.raises(SettingsError, match="raise_kl 1 or more"):
        Actions(raise_kl=0.5)
    with pytest.raises(DataError, match="lacks changes"):
        monitor.load_state_dict(
            {"reference": {}, "usual_length": None, "history": [], "trends": {}, "reset_seen": False}
        )


def test_answers_that_become_the_same_and_a_policy_that_becomes_certain(rng):
    def batch(same, nats):
        made = healthy(rng)
        if same:
            made["ids"] = [made["ids"][row // 4 * 4] for row in range(64)]
        entropies = [rng.exponential(nats, len(row)) for row in made["ids"]]
        return {**made, "entropies": entropies, "groups": np.repeat(np.arange(16), 4)}

    monitor = Monitor(VOCABULARY)
    monitor.calibrate(Batch(step=0, **batch(False, 1.0)))
    assert monitor.update(Batch(step=1, **batch(False, 1.0))) == []
    found = [one for step in (2, 3) for one in monitor.update(Batch(step=step, **batch(True, 0.2)))]
    assert causes(found) == {"MODE_COLLAPSE", "ENTROPY_COLLAPSE"}
    assert monitor.values["distinct_4"] == pytest.approx(0.25)
    found = [one for step in (4, 5, 6) for one in monitor.update(Batch(step=step, **batch(False, 2.5)))]
    assert causes(found) == {"ENTROPY_RISE"}


def test_groups_that_all_score_alike_teach_nothing(rng):
    groups = np.repeat(np.arange(16), 4)
    alarms = calibrated(rng).update(Batch(step=1, rewards=[1.0] * 64, groups=groups, **healthy(rng)))
    assert causes(alarms) == {"NO_SIGNAL"}


def test_limits_can_be_set(rng):
    batch = healthy(rng)
    batch["ids"][0] = looping(rng)
    monitor = calibrated(rng, limits={"loop": Limit(limit=0.01, share=True)})
    assert [one.severity for one in monitor.update(Batch(step=1, **batch))] == ["fail"]


def test_an_engine_that_stopped_a_loop_said_so(rng):
    batch = healthy(rng)
    batch["ids"][3], batch["finish"][3] = batch["ids"][3][:-1], "repetition"
    monitor = calibrated(rng)
    monitor.update(Batch(step=1, **batch))
    assert monitor.values["loop"] == 1 / 64 and monitor.advise().reasons[3] == "loop"
