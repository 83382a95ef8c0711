"""``holdtrue sft``: conversations or completions in, a run directory with a fine-tuned policy out."""

from __future__ import annotations

from typing import Annotated

import typer

from holdtrue import job
from holdtrue.cli import frame, running
from holdtrue.cli.train import create
from holdtrue.errors import SettingsError


def command(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA|SETTINGS.yaml]...", help="Examples, or settings."),
    ] = None,
    model: frame.Model = None,
    output: frame.Output = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="PATH", help="Validation examples (data.eval). Repeatable."),
    ] = None,
    overrides: frame.Overrides = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, metavar="N", help="Processes on this machine.")
    ] = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result | None:
    """Fine-tune a policy on conversations or completions.

    The loss is on answers and their stop token alone. The run directory holds settings, metrics, checkpoints,
    the policy as transformers reads it, and report.html. Interrupted runs go on with "holdtrue resume RUN".
    """
    from holdtrue.policy import sft_settings

    flags = {"data.eval": eval_data, "training.processes": processes}
    settings = sft_settings.build(
        frame.values_from(data or [], model=model, flags=flags, overrides=overrides)
    )
    if not settings.model.path or not settings.data.train:
        missing = "data (holdtrue sft EXAMPLES...)" if settings.model.path else "a policy (--model PATH)"
        raise SettingsError(f"fine-tuning needs {missing}")
    if output is None:
        raise SettingsError("say where the run goes: --output RUN")
    return running.carry(create(lambda: job.begin(settings, output), output), trust_remote_code)
