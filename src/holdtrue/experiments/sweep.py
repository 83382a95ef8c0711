"""``holdtrue sweep``: a search for good settings, every trial an ordinary run (Optuna).

    FOLDER/sweep.yaml      the settings around which is searched, with the space
    FOLDER/study.db        Optuna's record of the trials (SQLite)
    FOLDER/trials/0000/    a run directory; its checkpoints are deleted when the trial has ended
    FOLDER/best.yaml       the settings of the best trial, to train again with
    FOLDER/sweep.json      all trials as one JSON value, and report.html, the page made of it

Trials are proposed by a tree-structured Parzen estimator (TPE; Bergstra et al., NIPS 2011), seeded for each
trial by its number, so that a sweep that was killed and goes on proposes what it would have proposed.

The objective is measured on the held-out pairs with the trial's final model. Validation while training,
which pruning looks at, is the training loss there; where the space changes that loss itself (``loss.*``)
its values mean different things in different trials, so pruning then looks at the share of mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdtrue import job
from holdtrue.errors import DataError, HoldtrueError, Interrupted, QualityError, SettingsError
from holdtrue.experiments.runs import drop_checkpoints, open_or_start, require_comparable, workplace
from holdtrue.report.sweep import write_sweep_report
from holdtrue.rundir import RunDir, disk_errors, read_json, write_json, write_text
from holdtrue.settings import Range, Settings, SweepSettings, build, put

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SETTINGS_FILE = "sweep.yaml"
_STATUS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}


def sweep(
    settings: Settings,
    folder: Path,
    *,
    tell: job.Tell = lambda event, values: None,
    stop: Callable[[], bool] = lambda: False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Carry out trials until there are ``sweep.trials`` of them, going on where an earlier call ended.

    ``tell`` gets ``trial`` (number, values) when one begins, ``ended`` (its row of the result) and the
    events of its training. A trial that fails is recorded with its reason, and the next one begins.

    Returns:
        What ``sweep.json`` holds: ``metric``, ``trials`` (a row each), ``best`` (its row), paths.

    Raises:
        SettingsError: no search space, Optuna is missing, or the folder holds another sweep.
        Interrupted: ``stop`` asked for it; the trial under way goes on at the next call.
        QualityError: no trial finished.
    """
    require_comparable(settings, "sweep")
    search = settings.sweep
    if search is None or not search.space:
        raise SettingsError(
            "no search space; give one in the settings file, e.g. "
            "sweep: {space: {training.learning_rate: {low: 1e-5, high: 1e-3, log: true}}}"
        )
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise SettingsError("a sweep needs Optuna: pip install 'holdtrue[sweep]'") from None
    with workplace(folder, SETTINGS_FILE, job.anchored(settings), {"sweep.trials"}):
        study = _study(folder, search)
        work = _Sweep(settings.model_copy(update={"sweep": None}), search, folder, study)
        while True:
            result = work.publish()
            trial = work.next()
            if trial is None:
                break
            try:
                work.carry_out(trial, tell, stop, trust_remote_code)
            except Interrupted:
                raise Interrupted(
                    f"stopped in trial {trial.number}, everything is saved; "
                    f"continue with: holdtrue sweep --output {folder}"
                ) from None
            tell("ended", work.row(study.trials[trial.number]))
    if result["best"] is None:
        first = result["trials"][0]
        count = len(result["trials"])
        raise QualityError(f"none of the {count} trials finished; the first failed: {first['reason']}")
    return result


def _study(folder: Path, search: SweepSettings) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: Any = optuna.pruners.NopPruner()
    if search.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=search.startup_trials)
    # SQLite and not Optuna's journal, which cannot be read again once a kill has cut a line short
    return optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').absolute()}",
        study_name="sweep",
        direction="minimize" if search.metric == "loss" else "maximize",
        pruner=pruner,
        load_if_exists=True,
    )


@dataclass(frozen=True)
class _Sweep:
    settings: Settings
    search: SweepSettings
    folder: Path
    study: Study

    def next(self) -> Trial | None:
        """The trial a stopped sweep left open, else a new one; None when there are enough."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        left_open = [trial for trial in trials if not trial.state.is_finished()]
        number = left_open[0].number if left_open else len(trials)
        if not left_open and number >= self.search.trials:
            return None
        seed = np.random.SeedSequence([self.settings.seed, number]).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.search.startup_trials, seed=int(seed[0])
        )
        return optuna.Trial(self.study, left_open[0]._trial_id) if left_open else self.study.ask()

    def carry_out(self, trial: Trial, tell: job.Tell, stop: Callable[[], bool], trust: bool) -> None:
        """Train the trial to its end, or until it is pruned, and tell the study what came of it."""
        values = _suggest(trial, self.search.space, self.settings)
        tell("trial", {"number": trial.number, "trials": self.search.trials, "values": values})
        try:
            settings = with_values(self.settings, values)
        except SettingsError as error:
            self._fail(trial, error)
            return
        run = open_or_start(self.path(trial.number), settings)
        if stop():
            raise Interrupted
        try:
            self._train(trial, run, tell, stop, trust)
        except Interrupted:
            raise
        except HoldtrueError as error:
            self._fail(trial, error)
        drop_checkpoints(run)

    def _train(
        self, trial: Trial, run: RunDir, tell: job.Tell, stop: Callable[[], bool], trust: bool
    ) -> None:
        pruned = trial.should_prune()  # of one that was killed after the validation that decided it

        def listen(event: str, row: dict[str, Any]) -> None:
            nonlocal pruned
            if event == "metrics" and row["event"] == "eval":
                self._report(trial, run, row)
                pruned = trial.should_prune()
            tell(event, row)

        if run.info().get("status") not in ("finished", "pruned"):
            try:
                job.train(run, tell=listen, stop=lambda: pruned or stop(), trust_remote_code=trust)
            except Interrupted:
                if not pruned:
                    raise
                last = [row for row in run.metrics() if row["event"] == "train"][-1]
                reached = {"steps": last["step"], "seconds": round(last["seconds"], 1)}
                run.update_info(status="pruned", exit_code=None, error=None, **reached)
        if run.info()["status"] == "pruned":
            from optuna.trial import TrialState

            self.study.tell(trial, state=TrialState.PRUNED)
            return
        self._require_same_pairs(run)
        value = _measured(run)[self.search.metric]
        if value is None:
            raise QualityError(f"{self.search.metric} could not be measured on the held-out pairs")
        self.study.tell(trial, value)

    def _report(self, trial: Trial, run: RunDir, row: dict[str, Any]) -> None:
        """Tell the study a validation, numbered from 1; one that a resumed run repeats is known already."""
        number = sum(row["event"] == "eval" for row in run.metrics())
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        value = row["accuracy" if self.prunes_by_mistakes else self.search.metric]
        if value is not None and number not in known:
            flipped = self.prunes_by_mistakes and self.search.metric == "loss"
            trial.report(1 - value if flipped else value, number)

    @property
    def prunes_by_mistakes(self) -> bool:
        """Whether validation losses of different trials mean different things."""
        return any(key.partition(".")[0] == "loss" for key in self.search.space)

    def _fail(self, trial: Trial, error: HoldtrueError) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr("reason", str(error))
        self.study.tell(trial, state=TrialState.FAIL)

    def _require_same_pairs(self, run: RunDir) -> None:
        """Refuse to compare trials that were measured on files that changed in between."""
        for earlier in self.study.get_trials(deepcopy=False):
            if earlier.state.name == "COMPLETE":
                if _held_out_files(run) != _held_out_files(RunDir(self.path(earlier.number))):
                    raise DataError(f"its held-out pairs are not those of trial {earlier.number}")
                return

    def path(self, number: int) -> Path:
        """A trial's run directory."""
        return self.folder / "trials" / f"{number:04d}"

    def row(self, trial: FrozenTrial) -> dict[str, Any]:
        """A trial as it stands in ``sweep.json``."""
        run = RunDir(self.path(trial.number))
        finished = trial.state.name == "COMPLETE"
        result = _measured(run) if finished else {}
        info = run.info()
        return {
            "number": trial.number,
            "status": _STATUS.get(trial.state.name, "unfinished"),
            "values": {key: _value(self.search.space[key], value) for key, value in trial.params.items()},
            **{key: result.get(key) for key in ("loss", "accuracy", "interval", "count")},
            "steps": info.get("steps"),
            "seconds": info.get("seconds"),
            "reason": trial.user_attrs.get("reason"),
            "validations": [[n, value] for n, value in sorted(trial.intermediate_values.items())],
            "run": str(run.path.relative_to(self.folder)),
        }

    def publish(self) -> dict[str, Any]:
        """Write ``sweep.json``, ``best.yaml`` and ``report.html`` as things stand; returns the first."""
        rows = [self.row(trial) for trial in self.study.get_trials(deepcopy=False)]
        finished = [row for row in rows if row["status"] == "finished"]
        sign = 1 if self.search.metric == "loss" else -1
        best = min(finished, key=lambda row: sign * row[self.search.metric], default=None)
        result = {
            "folder": str(self.folder),
            "metric": self.search.metric,
            "validation": "share of mistakes" if self.prunes_by_mistakes and sign > 0 else self.search.metric,
            "asked": self.search.trials,
            "space": self.search.model_dump(mode="json")["space"],
            "trials": rows,
            "best": best,
            "settings": str(self.folder / "best.yaml") if best else None,
            "report": str(self.folder / "report.html"),
        }
        with disk_errors(self.folder):
            if best:
                settings_of_best = RunDir(self.path(best["number"])).settings_file
                write_text(self.folder / "best.yaml", settings_of_best.read_text(encoding="utf-8"))
            write_json(self.folder / "sweep.json", result)
            write_sweep_report(self.folder / "report.html", result)
        return result


def with_values(settings: Settings, values: dict[str, Any]) -> Settings:
    """The settings with some of them set, by dotted key."""
    plain = settings.dump()
    for key, value in values.items():
        put(plain, key, value)
    return build(plain)


def _suggest(trial: Trial, space: dict[str, Range | list[Any]], settings: Settings) -> dict[str, Any]:
    """A value for every key. Optuna keeps those of lists as JSON, which can also be mappings or null."""
    firsts = {key: where.low if isinstance(where, Range) else where[0] for key, where in space.items()}
    plain = with_values(settings, firsts).dump()
    values: dict[str, Any] = {}
    for key, where in space.items():
        if isinstance(where, list):
            label = trial.suggest_categorical(key, [json.dumps(value) for value in where])
            values[key] = json.loads(label)
        elif isinstance(reduce(lambda inside, part: inside[part], key.split("."), plain), int):
            values[key] = trial.suggest_int(key, int(where.low), int(where.high), log=where.log)
        else:
            values[key] = trial.suggest_float(key, where.low, where.high, log=where.log)
    return values


def _value(where: Range | list[Any], suggested: Any) -> Any:
    return json.loads(suggested) if isinstance(where, list) else suggested


def _measured(run: RunDir) -> dict[str, Any]:
    """What the run's model reached on the held-out pairs."""
    result: dict[str, Any] = read_json(run.evaluation_file)["results"][0]
    return result


def _held_out_files(run: RunDir) -> list[str]:
    """Hashes of the files the held-out pairs come from."""
    data = run.info()["data"]
    return [file["sha256"] for file in (data["eval"].get("files") or data["train"]["files"])]
