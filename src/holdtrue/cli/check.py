"""``holdtrue check``: an audit of preference data before anyone pays for training on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdtrue.cli import frame
from holdtrue.errors import ModelError, QualityError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from holdtrue.data.audit import Audit
    from holdtrue.data.checks import Finding, TokenCounts
    from holdtrue.data.reader import Reader
    from holdtrue.records import Group

_STYLES = {"fail": "bold red", "warn": "yellow", "info": "cyan"}


def command(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Files, directories or hub:owner/name[:split].")
    ],
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="PATH", help="Evaluation data, searched for leaks. Repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Model folder whose tokenizer counts tokens."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", min=2, metavar="N", help="Most tokens; by default what the model takes."
        ),
    ] = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
) -> frame.Result:
    """Audit preference data: counts, lengths, duplicates, leaks, contradictions, length bias, control tokens.

    With --model also what its tokenizer and --max-length would drop or cut. Exit code 4 when rows of
    the evaluation data are in the training data.
    """
    audit = check(
        data,
        eval_data or [],
        model=model,
        max_length=max_length,
        format=format,
        columns=frame.columns_from(columns),
    )
    return frame.Result(audit.as_json(), render(audit), QualityError.exit_code if audit.failed else 0)


def check(
    data: Sequence[str],
    eval_data: Sequence[str] = (),
    *,
    model: str | None = None,
    max_length: int | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    plain_text: Literal["chat", "raw"] = "chat",
) -> Audit:
    """Read the data and audit it; with a model, also against its tokenizer and ``max_length``.

    Raises:
        DataError: a file is missing, or none of its rows is usable. ModelError: no tokenizer at ``model``.
    """
    from holdtrue.data.audit import audit
    from holdtrue.data.reader import Reader

    def read(paths: Sequence[str]) -> tuple[list[Group], Reader]:
        reader = Reader(paths, format=format, columns=columns, plain_text=plain_text)
        groups = list(reader)
        reader.report.require_rows()
        return groups, reader

    count_tokens: TokenCounts | None = None
    control_tokens: list[str] = []
    if model is not None:
        count_tokens, max_length, control_tokens = token_counter(model, max_length)
    train, train_reader = read(data)
    held_out, eval_reader = read(eval_data) if eval_data else ([], None)
    return audit(
        train,
        held_out,
        read=train_reader.report,
        eval_read=eval_reader.report if eval_reader else None,
        count_tokens=count_tokens,
        max_length=max_length,
        control_tokens=control_tokens,
    )


def token_counter(model: str, max_length: int | None) -> tuple[TokenCounts, int, list[str]]:
    """Counts tokens as training would; with the longest conversation and the special tokens of the model."""
    if not Path(model).is_dir():
        raise ModelError(f"model folder {model} does not exist")
    if not (Path(model) / "config.json").is_file():
        raise ModelError(f"{model} is not a model folder (no config.json in it)")
    from transformers import AutoConfig, AutoTokenizer

    from holdtrue.reward.pools import is_encoder
    from holdtrue.tokens.conversation import Encoder, model_max_length, prepare_tokenizer
    from holdtrue.tokens.sentences import SentenceEncoder, parts_pairs

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        if max_length is None:
            max_length = model_max_length(config, tokenizer) or sys.maxsize
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"{model} cannot be read as a model with its tokenizer: {first}") from error
    encoder: Encoder
    if is_encoder(config):
        encoder = SentenceEncoder(tokenizer, sys.maxsize, input="pair" if parts_pairs(tokenizer) else "text")
    else:
        prepare_tokenizer(tokenizer)
        encoder = Encoder(tokenizer, sys.maxsize)

    def count(groups: Sequence[Group]) -> Iterator[list[int | str]]:
        for encoded in encoder.encode(groups):
            pairs = zip(encoded.ids, encoded.reasons, strict=True)
            yield [str(reason) if ids is None else len(ids) for ids, reason in pairs]

    return count, max_length, list(tokenizer.all_special_tokens)


def render(audit: Audit) -> RenderableType:
    """The audit as tables: what was read, how long it is, what was found."""
    from rich.console import Group as Stack
    from rich.text import Text

    parts: list[Any] = [_counts(audit), "", _lengths(audit), ""]
    if audit.findings:
        parts.append(_findings(audit.findings))
        counts = {severity: sum(f.severity == severity for f in audit.findings) for severity in _STYLES}
        summary = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count)
        found = "1 finding" if len(audit.findings) == 1 else f"{len(audit.findings)} findings"
        parts += ["", Text(f"{found}: {summary}")]
    else:
        parts.append(Text("Nothing suspicious found.", style="green"))
    return Stack(*parts)


def _counts(audit: Audit) -> Table:
    rows = []
    for split, counts in audit.counts.items():
        longer = audit.longer_answer[split]
        baseline = "-"
        if longer["count"]:
            low, high = longer["interval"]
            baseline = f"{longer['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        columns = ("rows", "kept", "prompts", "answers", "comparisons", "ties")
        rows.append((split, *(counts[name] for name in columns), baseline))
    headers = ("data", "rows", "kept", "prompts", "answers", "comparisons", "ties", "longer answer wins")
    return frame.table(headers, rows)


def _lengths(audit: Audit) -> Table:
    rows = []
    for split, lengths in audit.lengths.items():
        for what, measured in lengths.items():
            if measured["count"]:
                unit = "tokens, prompt + answer" if what == "tokens" else f"characters, {what}"
                rows.append((split, unit, *(round(measured[q]) for q in ("p5", "p50", "p95", "p99", "max"))))
    return frame.table(("data", "length", "p5", "median", "p95", "p99", "max"), rows)


def _findings(findings: Sequence[Finding]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    table.add_column("found", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("what, and what to do", overflow="fold")
    for finding in findings:
        what = Text(finding.what)
        what.append(f"\n{finding.advice}", style="dim")
        if finding.examples:
            what.append(f"\nfor example {_places(finding.examples)}", style="dim italic")
        label = Text(finding.severity, style=_STYLES[finding.severity])
        table.add_row(label, Text(finding.name), Text(str(finding.count)), what)
    return table


def _places(examples: Sequence[str]) -> str:
    """``file:1, file:2`` as ``file:1, :2``."""
    shown: list[str] = []
    before = None
    for example in examples:
        file, _, line = example.rpartition(":")
        shown.append(f":{line}" if file and file == before else example)
        before = file
    return ", ".join(shown)
