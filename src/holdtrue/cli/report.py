"""``holdtrue report``: a run directory as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdtrue.cli import frame
from holdtrue.errors import DataError, ModelError, SettingsError
from holdtrue.rundir import RunDir

if TYPE_CHECKING:
    from holdtrue.doctor.vocabulary import Vocabulary
    from holdtrue.records import Rollout


def command(run: frame.Run) -> frame.Result:
    """Write a run's report, one self-contained HTML file that opens without a network.

    Of a reward model, a fine-tuned or an optimised policy, or rounds; finished, stopped or still under way.
    """
    page = Path(run) / "report.html"
    if page.is_file() and not RunDir(run).settings_file.is_file():
        raise DataError(f"{run} is not one run; the command that made it has written its page: {page}")
    path = publish(RunDir.open(run))
    return frame.Result({"report": str(path)}, str(path))


def publish(run: RunDir) -> Path:
    """Write the page of a run, whatever it trains; returns its path.

    Raises:
        SettingsError: such runs have no page. DataError: a file of the run is broken.
    """
    task = run.settings().get("task")
    if task == "rl":
        from holdtrue.report.optimisation import write_optimisation_report

        return write_optimisation_report(run, _examine(run))
    if task == "sft":
        from holdtrue.report.finetuning import write_finetuning_report

        return write_finetuning_report(run)
    if task == "rounds":
        from holdtrue.report.rounds import write_rounds_report

        return write_rounds_report(run)
    if task == "goldworld":
        raise SettingsError(f"holdtrue goldworld --output {run.path} writes the report of a gold world")
    if task is not None:
        raise SettingsError(f"{run.settings_file}: task is {task!r}, known are rl, sft and rounds")
    from holdtrue.report import write_report

    return write_report(run)


def _examine(run: RunDir) -> Any:
    """The doctor, knowing the tokens of the run's policy where their tokenizer is at hand."""
    from holdtrue.doctor import rollouts as doctor

    vocabulary = _vocabulary(run)

    def examine(rollouts: Sequence[Rollout]) -> Mapping[str, Any]:
        return doctor.examine(rollouts, vocabulary).as_json()

    return examine


def _vocabulary(run: RunDir) -> Vocabulary | None:
    from holdtrue.doctor.vocabulary import Vocabulary

    for folder in (run.model, Path(run.settings()["policy"]["path"])):
        if folder.is_dir():
            try:
                return Vocabulary.of(folder)
            except ModelError:
                continue
    return None
