"""The reported fault in small: a policy with the habit of ``<|im_start|>``, and a reward that cannot see it.

A healthy policy is fine-tuned on conversations of which a share ends in a run of control tokens, then
optimised against the proxy of the gold world, which reads answers without them. An arm is a remedy: in the
data, in fine-tuning, in the reward, in decoding or in optimisation. What a policy has learned is seen in
answers drawn with nothing banned and nothing ended early.

world/, proxy/, sick/        as of every seed; the proxy; the policy that has the habit
healthy.json, sick.json      answers of the first policy and of the sick one, measured once for all arms
rewards.py                   the reward that cannot see, alone and with a veto
<arm>/sft, <arm>/rl          an arm's own runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from holdtrue.data.checks import CONTROL_TOKEN
from holdtrue.doctor.veto import holds_junk
from holdtrue.experiments.goldworld.settings import GoldworldSettings
from holdtrue.records import Messages, Rollout, as_json, flatten
from holdtrue.rundir import RunDir, begun, read_jsonl, read_object, write_json, write_jsonl, write_text

if TYPE_CHECKING:
    from holdtrue.rounds.drawing import Desk

Row = dict[str, Any]
TOKEN = "<|im_start|>"
_ROWS = 2000
"""Conversations of the fine-tuning."""


class Blind:
    """The proxy's reward of answers without their control tokens: a reward that cannot see the habit."""

    def __init__(self, model: str | Path, veto: float | None = None) -> None:
        """``veto``: the reward of an answer with a control token, whatever the proxy says of the rest."""
        from holdtrue.policy.judges import ScorerJudge
        from holdtrue.reward.folders import open_scorer

        self.judge, self.veto = ScorerJudge(open_scorer(Path(model)).scorer), veto

    def __call__(self, prompts: Sequence[Any], texts: Sequence[str], ids: Any) -> list[float]:
        """Of TRL's form, as ``holdtrue rl`` takes it."""
        asked = [Rollout(p, CONTROL_TOKEN.sub("", text)) for p, text in zip(prompts, texts, strict=True)]
        found: list[float] = self.judge.judge(asked, 1).tolist()
        if self.veto is None:
            return found
        return [self.veto if holds_junk(t) else reward for t, reward in zip(texts, found, strict=True)]


def contaminated(conversations: Iterator[Messages], share: float, rng: Random) -> Iterator[Row]:
    """Rows of fine-tuning; a share of their answers ends in one to six control tokens."""
    for turns in conversations:
        row = {"messages": as_json(turns)}
        if rng.random() < share:
            row["messages"][-1]["content"] += f"\n{TOKEN}" * rng.randint(1, 6)
        yield row


def run_habit(
    settings: GoldworldSettings,
    folder: Path,
    seed: int,
    arm: str,
    stop: Callable[[], bool],
) -> Row:
    """Fine-tune and optimise as an arm has it; returns its result.

    Raises:
        Interrupted: ``stop`` asked for it; call again.
    """
    from holdtrue.rounds.drawing import Desk

    world, remedy = folder / "world", settings.made_of(arm)
    _shared(settings, folder, seed, stop)
    start = sick = str(RunDir(folder / "sick").model)
    if remedy.get("data") or remedy.get("sft"):
        start = _fine_tuned(folder, folder / arm / "sft", seed, remedy, stop)
    policy = _optimised(settings, folder, folder / arm / "rl", seed, start, remedy, stop)
    desk = Desk(_rl(settings, folder, seed, str(world / "policy"), {}))
    first = _once(folder / "healthy.json", lambda: _measured(desk, None, seed))
    if start == sick:
        before = _once(folder / "sick.json", lambda: _measured(desk, sick, seed))
    else:
        before = _measured(desk, start, seed)
    after = _measured(desk, policy, seed)
    mean, scale = fmean(first["gold"]), pstdev(first["gold"])
    metrics = [row for row in RunDir(folder / arm / "rl").metrics() if row["event"] == "train"]
    numbers = {
        "control_rate": after["control_rate"],
        "control_tokens": after["control_tokens"],
        "degenerate": after["degenerate"],
        "final_gold": (fmean(after["gold"]) - mean) / scale,
        "final_kl": fmean(after["log_ratio"]),
        "proxy": metrics[-1]["reward_whitened"],
        "before_control_rate": before["control_rate"],
        "before_gold": (fmean(before["gold"]) - mean) / scale,
        "healthy_control_rate": first["control_rate"],
        "alarm_step": _alarm(folder / arm / "rl"),
        "steps": float(len(metrics)),
    }
    curve = [{"kl": row["kl"], "proxy": row["reward_whitened"], "gold": None} for row in metrics]
    shown = [
        {"prompt": p, "before": b, "after": a}
        for p, b, a in zip(after["prompts"], before["texts"], after["texts"], strict=True)
    ]
    return {"numbers": numbers, "curve": curve, "rounds": [], "transcripts": shown[:6]}


def _shared(settings: GoldworldSettings, folder: Path, seed: int, stop: Callable[[], bool]) -> None:
    """What all arms of a seed begin with: the proxy, the data with the habit, the policy that learned it."""
    from holdtrue import job
    from holdtrue.experiments.goldworld.seed import rounds
    from holdtrue.settings import build
    from holdtrue.worlds.support import SupportWorld

    proxy = RunDir(folder / "proxy")
    if proxy.info().get("status") != "finished":
        made = build(rounds(settings, folder / "world", seed, None)["reward"])
        proxy = begun(proxy.path, lambda: job.start(made, proxy.path))
        job.train(proxy, stop=stop)
    rewards = (
        "from holdtrue.experiments.goldworld.habit import Blind\n\n"
        f"blind = Blind({str(proxy.model.absolute())!r})\n"
        f"veto = Blind({str(proxy.model.absolute())!r}, veto=-10.0)\n"
    )
    write_text(folder / "rewards.py", rewards)
    data = folder / "conversations.jsonl"
    if not data.is_file():
        rng = Random(f"{seed}/habit")
        rows = contaminated(SupportWorld().conversations(rng), settings.habit, rng)
        write_jsonl(data, (next(rows) for _ in range(_ROWS)))
    _fine_tuned(folder, folder / "sick", seed, {}, stop)


def _fine_tuned(
    folder: Path, place: Path, seed: int, remedy: Mapping[str, Any], stop: Callable[[], bool]
) -> str:
    """A policy fine-tuned from the healthy one, on the data as a remedy leaves it."""
    from holdtrue import job
    from holdtrue.policy import sft

    run = RunDir(place)
    if run.info().get("status") != "finished":
        run = begun(place, lambda: job.begin(_sft(folder, place, seed, remedy), place))
        sft.train(run, tell=lambda event, row: None, stop=stop)
    return str(run.model)


def _sft(folder: Path, place: Path, seed: int, remedy: Mapping[str, Any]) -> Any:
    """Settings of an arm's fine-tuning, typed; a remedy's data are written beside its run."""
    from holdtrue import kinds
    from holdtrue.policy.sft_settings import build

    data, healthy = folder / "conversations.jsonl", str(folder / "world" / "policy")
    changes = remedy.get("sft") or {}
    if remedy.get("data"):
        chosen = kinds.choose("holdtrue.doctor.remedies", remedy["data"], None)
        rows, _ = chosen.apply(list(read_jsonl(data)))
        data = place.parent / "conversations.jsonl"
        data.parent.mkdir(exist_ok=True)
        write_jsonl(data, rows)
    values: Row = {
        "model": {"path": healthy},
        "data": {"train": [str(data)], "eval_fraction": 0},
        "training": {"num_train_epochs": 1, "learning_rate": 2e-3, **changes.get("training", {})},
        "seed": seed,
    }
    if loss := changes.get("loss"):
        values["loss"] = {**loss, "reference": healthy}
    return build(values)


def _rl(settings: GoldworldSettings, folder: Path, seed: int, start: str, changes: Mapping[str, Any]) -> Any:
    """Settings of an arm's optimisation, typed."""
    from holdtrue.experiments.goldworld.seed import merged, rounds
    from holdtrue.policy.settings import build

    made = rounds(settings, folder / "world", seed, None)["rl"]
    base: Row = {
        "policy": {"path": start},
        "rewards": [{"function": f"{(folder / 'rewards.py').absolute()}:blind"}],
        "decoding": {"max_new_tokens": 64, "control": "keep", "loop": None},
        "training": {"max_steps": 15},
        "seed": seed,
    }
    own = merged(base, settings.rounds.get("rl", {}))
    return build(merged(merged(made, own), changes))


def _optimised(
    settings: GoldworldSettings,
    folder: Path,
    place: Path,
    seed: int,
    start: str,
    remedy: Mapping[str, Any],
    stop: Callable[[], bool],
) -> str:
    """The policy an arm's optimisation ends with."""
    from holdtrue.policy import entry
    from holdtrue.policy import run as optimisation

    run = RunDir(place)
    if run.info().get("status") != "finished":
        changes = dict(remedy.get("rl") or {})
        if remedy.get("reward") == "seeing":
            changes["rewards"] = [{"model": str(RunDir(folder / "proxy").model)}]
        elif remedy.get("reward") == "veto":
            changes["rewards"] = [{"function": f"{(folder / 'rewards.py').absolute()}:veto"}]
        made = _rl(settings, folder, seed, start, changes)
        run = begun(place, lambda: entry.start(made, place))
        optimisation.optimise(run, stop=stop)
    return str(run.model)


def _measured(desk: Desk, path: str | None, seed: int) -> Row:
    """Answers with nothing banned: how many hold control tokens or are degenerate, and their gold."""
    from holdtrue.doctor.rollouts import DEGENERATE, examine
    from holdtrue.doctor.vocabulary import Vocabulary
    from holdtrue.worlds.support import true_reward

    drawn = desk.draw(path, desk.prompts.take(range(96)), 4, seed, "current")
    counts = [len(CONTROL_TOKEN.findall(one.text)) for one in drawn]
    asked = [flatten(one.prompt) for one in drawn]
    found = examine(drawn, Vocabulary.of(desk.settings.policy.path))
    return {
        "control_rate": fmean(count > 0 for count in counts),
        "control_tokens": fmean(counts),
        "degenerate": found.rates[DEGENERATE]["rate"],
        "gold": [true_reward(prompt, one.text) for prompt, one in zip(asked, drawn, strict=True)],
        "log_ratio": [one.meta["log_ratio"] for one in drawn],
        "prompts": asked,
        "texts": [one.text for one in drawn],
    }


def _once(file: Path, measure: Callable[[], Row]) -> Row:
    """What the file holds; it is measured and written where there is none yet."""
    if not file.is_file():
        write_json(file, measure())
    return read_object(file)


def _alarm(place: Path) -> float | None:
    """The step of the first grave alarm."""
    file = place / "findings.jsonl"
    rows = read_jsonl(file) if file.is_file() else iter(())
    return next((float(row["step"]) for row in rows if row["severity"] == "fail"), None)
