"""``holdtrue``: the table of verbs, and the one place where a command begins and ends.

A verb is the function ``command`` of ``holdtrue.cli.<verb>``. It returns a
:class:`~holdtrue.cli.frame.Result`; ``--json`` and ``--debug`` are added to every verb and handled
here, so that no verb needs to know of them. ``holdtrue --help`` imports none of the verbs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from holdtrue import __version__
from holdtrue.cli import frame
from holdtrue.errors import Interrupted, unknown

VERBS = {
    "demo": "Watch a policy exploit its reward model, and what helps.",
    "check": "Audit preference data before paying for training.",
    "convert": "Write data in another layout, transformed or split.",
    "plan": "Say what a training run would read, drop and need.",
    "train": "Train a reward model on preference pairs.",
    "sft": "Fine-tune a policy on conversations or completions.",
    "rl": "Optimise a policy against a reward model or a function.",
    "rounds": "Optimise a policy and refresh its reward model, in rounds.",
    "goldworld": "Measure what refreshing is worth where the truth is known.",
    "sweep": "Search for good settings, every trial an ordinary run.",
    "ablate": "Measure what each ingredient of a recipe is worth.",
    "combine": "Make one model of several: an ensemble, a mean of weights.",
    "score": "Give each answer of a data set its reward.",
    "evaluate": "Measure a reward model on pairs, or a policy on prompts.",
    "compare": "Compare models on the same held-out preference pairs.",
    "shift": "Measure how far policies have left what a model was taught.",
    "rank": "Rank policies by the rewards of their answers.",
    "verify": "Prove that a model's rewards can be trusted.",
    "doctor": "Say why a policy repeats itself, and mend it.",
    "report": "Write a run's report, one self-contained HTML file.",
    "resume": "Continue an interrupted run from its last checkpoint.",
    "schema": "Print the JSON Schema of the settings file.",
    "list": "List what there is to choose from, and the settings.",
}


class Verbs(typer.core.TyperGroup):
    """A group of verbs: names and helps from ``table``, the rest from a verb's module in ``package``."""

    package = "holdtrue.cli"
    table = VERBS

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for verb, summary in self.table.items():
            self.add_command(typer.core.TyperCommand(name=verb, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """The verb's own command, in place of the table's stand-in that ``--help`` shows."""
        verb = args[0]
        if verb not in self.table:
            ctx.fail(unknown("command", verb, self.table))
        return verb, load(verb, self.package), args[1:]

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line up to the verb."""
        with _before_typer():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the verb."""
        with _before_typer():
            return super().invoke(ctx)


@contextlib.contextmanager
def _before_typer() -> Iterator[None]:
    """Turn into errors of ours what typer would give exit codes of its own."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except BrokenPipeError:
        raise frame.PipeClosed from None


def load(verb: str, package: str = "holdtrue.cli") -> Any:
    """The command of a verb, ready to be parsed for; imports the verb's module.

    A verb that is a package with ``VERBS`` of its own is a group of them.
    """
    module = importlib.import_module(f"{package}.{verb}")
    if hasattr(module, "VERBS"):
        inner = type("Verbs", (Verbs,), {"package": module.__name__, "table": module.VERBS})
        return inner(name=verb, help=module.__doc__)
    command = _command(verb, module.command)
    command.params += _command(verb, _on_every_verb).params
    return command


def _command(name: str, function: Any) -> Any:
    holder = typer.Typer(add_completion=False, rich_markup_mode=_help_style())
    holder.command(name)(function)
    return typer.main.get_command(holder)


def _on_every_verb(
    json: Annotated[
        bool, typer.Option("--json", expose_value=False, help="Print one JSON value and nothing else.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", expose_value=False, help="Show the traceback of an error.")
    ] = False,
) -> None: ...


def _help_style() -> Any:
    return "rich" if sys.stdout.isatty() else None


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"holdtrue {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Reward models that hold true while the policy moves: train, check, evaluate and save them."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)


def group() -> Any:
    """The whole command line as a typer group."""
    app = typer.Typer(name="holdtrue", rich_markup_mode=_help_style())
    app.callback(cls=Verbs, invoke_without_command=True)(_root)
    return typer.main.get_command(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's) and return its exit code.

    With ``--json`` all that the verb or a library prints goes to stderr, so that stdout holds the
    verb's value, or ``{"error": {"type", "message", "exit_code"}}``, and nothing else.
    """
    # threads that spin for one another were 150 times slower beside two busy processes, and no
    # faster where none do; read when torch is loaded
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if int(os.environ.get("RANK", "0")) > 0:
        logging.getLogger("holdtrue").setLevel(logging.ERROR)  # the first of several processes warns
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = frame.asks_for("--json", arguments)
    stdout = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")  # a letter the terminal lacks is no reason to fail
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = group().main(arguments, prog_name="holdtrue", standalone_mode=False)
        code = frame.show(result, as_json) if isinstance(result, frame.Result) else int(result or 0)
        stdout.flush()
    except BaseException as error:
        return frame.fail(error, as_json, frame.asks_for("--debug", arguments))
    return code
