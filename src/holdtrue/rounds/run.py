"""Rounds, end to end: settings to a run directory with a policy, its reward models and what became of them.

settings.yaml, run.json     as of every run
metrics.jsonl               a row for each round
reward/                     the first reward model, an ordinary run
reference.jsonl             answers of the first policy
round-N/rl/                 policy optimisation, an ordinary run
round-N/answers.jsonl       fresh answers, with log-ratios to the reference and rewards of both models
round-N/judged.jsonl        two further answers to other prompts, on which accuracy is measured
round-N/refresh/            runs and model of the refresh
round-N/round.json          its row of metrics.jsonl; a round that has one is finished
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from holdtrue import job
from holdtrue.data.splits import read_splits
from holdtrue.doctor.sources import read_rollouts
from holdtrue.errors import Interrupted, SettingsError
from holdtrue.policy import entry, journal
from holdtrue.policy import run as optimisation
from holdtrue.policy.prompts import Prompts
from holdtrue.policy.settings import RewardSettings, RLSettings
from holdtrue.records import Group, Rollout
from holdtrue.refresh.answers import log_ratios, together
from holdtrue.refresh.context import Floats, Labeller, RefreshContext
from holdtrue.refresh.probe import probe
from holdtrue.report.rounds import write_rounds_report
from holdtrue.reward import folders
from holdtrue.rounds import labelling, measuring
from holdtrue.rounds.drawing import Desk
from holdtrue.rounds.settings import RoundsSettings, build
from holdtrue.rundir import RunDir, begun, disk_errors, find_model, now, read_json, write_json, write_jsonl
from holdtrue.training import attempt
from holdtrue.training.distributed import default_device

Row = dict[str, Any]


def start(settings: RoundsSettings, output: str | Path, *, labelled: bool = False) -> RunDir:
    """A new run directory for these settings; ``labelled`` where :func:`carry` will be given who labels.

    Raises:
        SettingsError: labels are wanted and nobody gives them, or the directory is in use.
        DataError, ModelError: a file that is named does not exist; then nothing is written.
    """
    needs_labels = "labels" in settings.method.needs
    known = labelled or labelling.load(settings.labels) is not None
    if (settings.labels.accuracy or needs_labels) and not known:
        raise SettingsError("labels are wanted and nobody gives them: set labels.function=file.py:name")
    if needs_labels and not settings.labels.budget:
        raise SettingsError(f"refresh {settings.method.name()} buys labels: set labels.budget to 1 or more")
    job.require_files(settings.reward)
    entry.require_files(settings.rl)
    values = settings.dump()
    values["reward"] = job.anchored(settings.reward)
    values["rl"] = entry.anchored(settings.rl)
    if settings.stop.held_out:
        values["stop"]["held_out"] = str(find_model(settings.stop.held_out).absolute())
    if settings.labels.function:
        file, _, name = settings.labels.function.rpartition(":")
        values["labels"]["function"] = f"{Path(file).absolute()}:{name}"
    return RunDir.create(output, values)


def carry(
    run: RunDir,
    *,
    labeller: Labeller | None = None,
    judge: Labeller | None = None,
    tell: Callable[[Row], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> list[Row]:
    """Carry rounds from where they stand to their end; returns a row for each.

    Args:
        labeller: gives labels in place of ``labels.function``; ``judge`` those that accuracy is measured
            by, where they are others.
        tell: gets ``{"event": "part", ...}`` when a part begins, every row of metrics of a part, and each
            round's row (``{"event": "round", ...}``).

    Raises:
        Interrupted: ``stop`` asked for it; what was done is kept.
        HoldtrueError: something is wrong with settings, models or data.
    """
    settings = build(run.settings())
    with run.claim(), attempt.recorded(run):
        run.update_info(status="running", exit_code=None, error=None)
        rater = labeller or labelling.load(settings.labels)
        rounds = Rounds(run, settings, rater, judge or rater, tell, stop, trust_remote_code)
        try:
            rows = rounds.carry()
        except Interrupted:  # of a part, whose own word names that part alone
            raise Interrupted(f"everything is saved; continue with: holdtrue resume {run.path}") from None
        run.update_info(status="finished", finished=now(), rounds=len(rows), stopped=rows[-1]["stopped"])
    return rows


@dataclass
class _Place:
    """Where a round begins: folders of the policy and the reward model, and their last means."""

    policy: str
    model: Path
    means: measuring.Means


class Rounds:
    """The rounds of one run."""

    def __init__(
        self,
        run: RunDir,
        settings: RoundsSettings,
        rater: Labeller | None,
        judge: Labeller | None,
        tell: Callable[[Row], None],
        stop: Callable[[], bool],
        trust: bool,
    ) -> None:
        self.run = RunDir(run.path.absolute())  # rows name models: they must be found from anywhere
        self.settings, self.rater, self.judge = settings, rater, judge
        self.tell, self.stop, self.trust = tell, stop, trust
        self.device = default_device()
        self.desk = Desk(settings.rl, self.device, trust)
        order = np.random.default_rng(settings.seed).permutation(len(self.desk.prompts)).tolist()
        count, more = settings.answers.prompts, settings.labels.accuracy
        if count + more > len(order):
            raise SettingsError(
                f"answers.prompts {count} and labels.accuracy {more} take {count + more} prompts; there are "
                f"{len(order)} different ones that are not held out"
            )
        self.asked = self.desk.prompts.take(order[:count])
        self.others = self.desk.prompts.take(order[count : count + more])
        held_out = settings.stop.held_out
        self.held_out = self._open(Path(held_out)).scorer if held_out else None

    def carry(self) -> list[Row]:
        """All rounds; see :func:`carry`."""
        first = self._first_model()
        reference = self._answers(None, self.run.path / "reference.jsonl", self.asked, 0)
        self.reference = together(reference, folders.plain_text(first))
        means = measuring.means(probe(self._open(first).scorer, self.reference, self.held_out))
        place = _Place(self.settings.rl.policy.path, first, means)
        rows: list[Row] = []
        for number in range(1, self.settings.rounds + 1):
            row = self._round(number, place)
            rows.append(row)
            write_jsonl(self.run.metrics_file, rows)
            write_rounds_report(self.run)
            place = _Place(row["policy"], Path(row["model"]), measuring.Means(**row["means"]))
            if row["stopped"]:
                break
        return rows

    def _round(self, number: int, place: _Place) -> Row:
        folder = self.run.path / f"round-{number}"
        done = folder / "round.json"
        if done.is_file():
            row: Row = read_json(done)
            return row
        started = time.perf_counter()
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        policy = self._optimise(number, place)
        answers = self._answers(policy, folder / "answers.jsonl", self.asked, number)
        judged = self._judged(number, policy, folder)
        self.tell({"event": "part", "round": number, "part": f"refresh ({self.settings.method.name()})"})
        self._pause()
        opened = self._open(place.model)
        groups = together(answers, opened.plain_text)
        scorer, report = self.settings.method(self._context(number, folder, policy, opened, groups))
        row = {"event": "round", "round": number, "policy": policy}
        row |= measuring.of_round(
            self.settings,
            {"before": opened.scorer, "after": scorer},
            groups,
            self.reference,
            judged,
            place.means,
            self.held_out,
        )
        row["rl"] = measuring.of_optimisation(RunDir(folder / "rl"))
        row["health"] = measuring.of_health(answers, policy)
        row["refresh"] = report.as_json()
        row["model"] = str(report.model or place.model)
        row["seconds"] = round(time.perf_counter() - started, 1)
        row = journal.finite(row)
        write_json(done, row)
        self.tell(row)
        return row

    # Parts of a round

    def _first_model(self) -> Path:
        """The reward model of the first round, trained unless it is."""
        run = RunDir(self.run.path / "reward")
        if run.info().get("status") != "finished":
            self.tell({"event": "part", "round": 0, "part": "reward model"})
            run = begun(run.path, lambda: job.start(self.settings.reward, run.path))
            job.train(
                run,
                tell=lambda event, values: self.tell(values) if event == "metrics" else None,
                stop=self.stop,
                trust_remote_code=self.trust,
            )
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        return run.model

    def _optimise(self, number: int, place: _Place) -> str:
        """The round's policy optimisation, carried to its end: folder of the policy."""
        run = RunDir(self.run.path / f"round-{number}" / "rl")
        if run.info().get("status") != "finished":
            self.tell({"event": "part", "round": number, "part": "policy optimisation"})
            self._pause()
            run = begun(run.path, lambda: entry.start(self._rl(number, place), run.path))
            optimisation.optimise(run, tell=self.tell, stop=self.stop, trust_remote_code=self.trust)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        return str(run.model)

    def _rl(self, number: int, place: _Place) -> RLSettings:
        """A round's settings: its start, its reference and its reward."""
        rl, first = self.settings.rl, self.settings.rl.policy.path
        start = first if self.settings.restart else place.policy
        policy = {"path": start, "reference": None if start == first else first}
        return rl.model_copy(
            update={
                "policy": rl.policy.model_copy(update=policy),
                "rewards": [RewardSettings(model=str(place.model)), *rl.rewards],
                "seed": self._seed(number),
            }
        )

    def _answers(self, policy: str | None, file: Path, prompts: Prompts, number: int) -> list[Rollout]:
        """Answers that were drawn, or else that are drawn and written down."""
        if not file.is_file():
            self._pause()
            name = "reference" if policy is None else f"round {number}"
            group = 2 if file.stem == "judged" else self.settings.answers.group
            stream = 1 if file.stem == "judged" else 0
            drawn = self.desk.draw(policy, prompts, group, self._seed(number, stream), name)
            with disk_errors(file):
                write_jsonl(file, map(journal.as_row, drawn))
        return read_rollouts([str(file)]).rollouts

    def _judged(self, number: int, policy: str, folder: Path) -> list[Group]:
        """Pairs of further answers, labelled, for the accuracy."""
        if not len(self.others) or self.judge is None:
            return []
        drawn = self._answers(policy, folder / "judged.jsonl", self.others, number)
        return labelling.judge(self.judge, drawn, self._plain_text(), folder / "judged-labels.jsonl")

    def _context(
        self, number: int, folder: Path, policy: str, opened: folders.Opened, groups: Sequence[Group]
    ) -> RefreshContext:
        settings = self.settings
        splits = read_splits(settings.reward.data, None)
        pairs = splits.train
        wanted = "pair log-ratios" in settings.method.needs
        ratios = self._pair_log_ratios(policy, pairs, folder / "pair-log-ratios.json") if wanted else None
        return RefreshContext(
            settings=settings.reward,
            current=opened.scorer,
            pairs=pairs,
            folder=folder / "refresh",
            seed=self._seed(number),
            bought=self._bought(number, opened.plain_text),
            shifted=groups,
            shifted_log_ratios=log_ratios(groups),
            pair_log_ratios=ratios,
            held_out=splits.eval,
            labeller=self.rater,
            budget=settings.labels.budget,
            tell=self.tell,
            stop=self.stop,
        )

    def _bought(self, number: int, plain_text: Literal["chat", "raw"]) -> list[Group]:
        """Pairs that refreshes of the rounds before had labelled."""
        found = []
        for earlier in range(1, number):
            folder = self.run.path / f"round-{earlier}"
            labels = folder / "refresh" / "labels.jsonl"
            if labels.is_file():
                answers = read_rollouts([str(folder / "answers.jsonl")]).rollouts
                found += labelling.bought(labels, together(answers, plain_text))
        return found

    def _pair_log_ratios(self, policy: str, pairs: Sequence[Group], file: Path) -> list[Floats]:
        """Of all pairs, computed once: a refresh that goes on must see the very same numbers."""
        if not file.is_file():
            write_json(file, [own.tolist() for own in self.desk.log_ratios(policy, pairs)])
        return [np.array(own, dtype=np.float64) for own in read_json(file)]

    def _open(self, folder: Path) -> folders.Opened:
        return folders.open_scorer(folder, device=self.device, trust_remote_code=self.trust)

    def _plain_text(self) -> Literal["chat", "raw"]:
        return folders.plain_text(self.run.path / "reward" / "model")

    def _seed(self, number: int, stream: int = 0) -> int:
        return int(np.random.SeedSequence([self.settings.seed, number, stream]).generate_state(1)[0])

    def _pause(self) -> None:
        if self.stop():
            raise Interrupted("stopped between two parts")
