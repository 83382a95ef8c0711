"""``holdtrue doctor rollouts``: degenerate answers in rollouts of any engine, and their causes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, QualityError
from holdtrue.intervals import pooled

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_ROWS = 20
MOST_STEPS = 10
MOST_REMEDIES = 6


def command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Rollouts: files, folders of files, or runs.")
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", metavar="FOLDER", help="Model folder whose tokenizer sampled the ids."),
    ] = None,
    chain: Annotated[
        list[str] | None,
        typer.Option(
            "--chain", metavar="A,B,...", help="Policies in order of training, to compare. Repeatable."
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            metavar="NAME=FOLDER",
            help="A model that scores the faults found, the reference first. Repeatable.",
        ),
    ] = None,
    evidence: Annotated[
        list[Path] | None,
        typer.Option("--evidence", metavar="FILE", help="JSON of doctor check or doctor reward. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write an HTML page with the transcripts, the worst first."
        ),
    ] = None,
) -> frame.Result:
    """Find degenerate answers in rollouts of any engine, where they begin, and what causes them.

    Reads what TRL, verl, OpenRLHF, ms-swift, vLLM and OpenAI servers write, and holdtrue's own runs. With
    --tokenizer control and phantom tokens are decided on token ids; without, on text; holdtrue's own run has
    it in its model. Exit code 4 when an answer or a signal fails.
    """
    from holdtrue.doctor.causes import chain as compare
    from holdtrue.doctor.causes import rank
    from holdtrue.doctor.prescription import context_of, prescribe
    from holdtrue.doctor.rollouts import examine
    from holdtrue.doctor.sources import own_run, own_tokenizer, read_rollouts
    from holdtrue.doctor.vocabulary import Vocabulary

    if output is not None:
        frame.require_page(output)
    static = [finding for file in evidence or () for finding in _findings(file)]
    models = _checkpoints(checkpoint or ())
    dump = read_rollouts(files)
    own = own_run(files)
    if tokenizer is None and own is not None:
        tokenizer = own_tokenizer(own)
    vocabulary = Vocabulary.of(tokenizer) if tokenizer is not None else None
    found = examine(dump.rollouts, vocabulary, indices=dump.indices)
    if models and found.verdict == "fail":
        from holdtrue.doctor.attribution import attribute

        found.signals.append(attribute(found.rows, models))
    causes = rank(found, static)
    chains = [_policies(one) for one in chain or ()]
    reference = chains[0][0] if chains else None
    settings = own.settings() if own is not None else None
    place = context_of(found, static=static, reference=reference, vocabulary=vocabulary, settings=settings)
    value = found.as_json() | {
        "causes": causes,
        "remedies": [one.as_json() for one in prescribe(causes, place)],
        "chains": [step for one in chains for step in compare(found, one)],
        "unreadable": {
            reason: {"rows": count, "examples": dump.examples[reason]}
            for reason, count in dump.unreadable.items()
        },
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "notes": notes(dump.rollouts, vocabulary is not None),
    }
    if output is not None:
        from holdtrue.report.rollouts import write_rollouts_report

        write_rollouts_report(output, value, [row.rollout for row in found.rows])
    code = QualityError.exit_code if found.verdict == "fail" else 0
    return frame.Result(value, render(value, output), code)


def notes(rollouts: Sequence[Any], known: bool) -> list[str]:
    """What could not be checked for lack of columns or a tokenizer."""
    from holdtrue.doctor.tool_calls import OPEN, declared

    with_ids = sum(rollout.completion_ids is not None for rollout in rollouts)
    result = []
    if not with_ids:
        result.append(
            "No token ids in these files: control tokens were looked for in the text, where "
            "skip_special_tokens hides them, and phantom ids could not be looked for."
        )
    elif not known:
        result.append(
            f"{with_ids:,} answers have token ids, but no --tokenizer was given: control tokens were looked "
            "for in the text, and phantom ids could not be looked for."
        )
    if not any(rollout.finish for rollout in rollouts):
        result.append("No finish reasons: truncation could not be told from loops.")
    if not any(rollout.reward is not None for rollout in rollouts):
        result.append("No rewards: whether they see the junk could not be told.")
    calling = sum(OPEN in rollout.text and not declared(rollout.meta) for rollout in rollouts)
    if calling:
        result.append(
            f"{calling:,} answers call tools, and their rows have no tools: whether names and arguments are "
            "those that were declared could not be told."
        )
    if not any(rollout.trained_logprobs for rollout in rollouts):
        result.append("No log-probabilities of both engine and trainer: their gap could not be measured.")
    return result


def _findings(file: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        found = value["findings"]
        assert all(isinstance(one, dict) for one in found)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AssertionError):
        raise DataError(f"{file} is not the JSON of doctor check or doctor reward (--json)") from None
    return list(found)


def _checkpoints(given: Sequence[str]) -> dict[str, Path]:
    result = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not name or not Path(folder).is_dir():
            raise DataError(f"--checkpoint takes NAME=FOLDER of a model folder, got {one!r}")
        result[name] = Path(folder)
    if len(result) == 1:
        raise DataError("--checkpoint is given twice or more, the reference first; got one")
    return result


def _policies(text: str) -> list[str]:
    policies = [part.strip() for part in text.split(",") if part.strip()]
    if len(policies) < 2:
        raise DataError(f"--chain takes two policies or more with commas between them, got {text!r}")
    return policies


def render(value: dict[str, Any], page: Path | None) -> RenderableType:
    """The summary for people: rates, policies, clusters, causes."""
    from rich.console import Group
    from rich.text import Text

    style = {"fail": "bold red", "warn": "yellow", "ok": "green"}[value["verdict"]]
    parts: list[Any] = [Text(_headline(value), style=style)]
    for headers, cells in _tables(value):
        if cells:
            parts += ["", frame.table(headers, cells)]
    told = [line for cause in value["causes"] for line in cause["evidence"]]
    for one in value["signals"]:
        if one["severity"] != "ok" or one["id"] == "ATTRIBUTION":
            alone = not any(line.startswith(one["id"]) for line in told)  # no cause says what to do
            why = f". {one['why']} {one['fix']}".rstrip() if alone else ""
            parts.append(Text(f"\n{one['severity']} {one['id']}: {one['evidence']}{why}", style="yellow"))
    for place, cause in enumerate(value["causes"], start=1):
        parts += [Text(f"\n{place}. {cause['what']}", style="bold"), _indented(3, cause["fix"])]
        parts += [_indented(3, f"- {_cut(line, 200)}", "dim") for line in cause["evidence"]]
    if value["remedies"]:
        parts.append("\nremedies (A certain or measured, B published, C plausible; holdtrue list remedies)")
    parts += [
        _indented(indent, line, "dim" if "refused" in line else "")
        for indent, line in _remedies(value["remedies"])
    ]
    parts += ["", *(Text(f"note: {note}", style="dim") for note in value["notes"])]
    parts += [
        Text(f"not read: {one['rows']:,} rows, {reason}, as {one['examples'][0]}", style="yellow")
        for reason, one in value["unreadable"].items()
    ]
    if value["tokenizer"]:
        parts.append(f"tokenizer: {value['tokenizer']}")
    if page is not None:
        parts.append(f"transcripts: {page}")
    return Group(*parts)


def _indented(indent: int, text: str, style: str = "") -> RenderableType:
    """Text whose lines all begin so far to the right, however narrow the terminal is."""
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, style=style), (0, 0, 0, indent), expand=False)


def _headline(value: dict[str, Any]) -> str:
    """The verdict, the signals and detectors that made it, and how many answers are degenerate."""
    names, whole = value["decided_by"], value["rates"]["degenerate"]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    low, high = whole["interval"]
    return (
        f"{value['verdict']}{f' ({shown})' if names else ''}: "
        f"{whole['count']:,} of {whole['rows']:,} answers are degenerate "
        f"({whole['rate']:.1%}, 95 % interval {low:.1%} to {high:.1%})"
    )


def _remedies(remedies: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Indented: the first remedies with settings, names of others, and why some would do harm."""
    from holdtrue.report import wording

    good = [one for one in remedies if not one["refused"]]
    for one in good[:MOST_REMEDIES]:
        yield 2, f"{one['grade']} {one['remedy']} ({one['where']}): {one['evidence']}"
        yield from ((6, _cut(line, 160)) for line in wording.ways(one["how"]))
    if others := ", ".join(f"{one['remedy']} ({one['grade']})" for one in good[MOST_REMEDIES:]):
        yield 2, f"further ones, as the page (-o) and --json say in full: {others}"
    for one in remedies:
        if one["refused"]:
            yield 2, f"{one['grade']} {one['remedy']} ({one['where']}): refused: {one['refused']}"


def _tables(value: dict[str, Any]) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
    """Headers and cells of every table; no cells where there is nothing to say."""
    rates = value["rates"]
    yield (
        ["detector", "fail", "warn", "rate"],
        [
            (name, one["count"], one["warned"], _share(one))
            for name, one in rates.items()
            if name != "degenerate"
        ],
    )
    for by, head in (("by_policy", "policy"), ("by_step", "step")):
        parts = {name: one[by] for name, one in rates.items() if one[by]}
        if by == "by_step":
            parts = {name: pooled(one, MOST_STEPS) for name, one in parts.items()}
        whole = parts.pop("degenerate", {})
        told = by == "by_policy" or rates["degenerate"]["count"]  # of no fault no step has more
        yield (
            [head, "answers", "degenerate", "rate", "most often"],
            [
                (name, one["rows"], one["count"], _share(one), _most(parts, name))
                for name, one in whole.items()
                if told
            ],
        )
    yield (
        ["chain", "prompts", "before", "after", "difference", "reading"],
        [
            (
                f"{one['from']} -> {one['to']}",
                one["prompts"],
                f"{one['rate_from']:.1%}",
                f"{one['rate_to']:.1%}",
                _difference(one),
                one["reading"],
            )
            for one in value["chains"]
        ],
    )
    yield (
        ["signature", "rows", "begins", "step", "example"],
        [
            (
                one["signature"],
                one["rows"],
                "-" if one["begins_at"] is None else f"{one['begins_at']:.0%}",
                "-" if one["first_step"] is None else str(one["first_step"]),
                f"{Path(one['examples'][0]['at']).name}: {_cut(one['examples'][0]['evidence'])}",
            )
            for one in value["clusters"][:MOST_ROWS]
        ],
    )


def _share(rate: dict[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{rate['rate']:.1%} ({low:.1%} to {high:.1%})"


def _most(parts: dict[str, Any], name: str) -> str:
    """The detector that fails most of a part's rows."""
    counts = {key: one[name]["count"] for key, one in parts.items()}
    best = max(counts, key=lambda key: counts[key], default=None)
    return f"{best} ({counts[best]})" if best and counts[best] else ""


def _difference(step: dict[str, Any]) -> str:
    if step["interval"] is None:
        return "-"
    low, high = step["interval"]
    return f"{100 * step['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _cut(text: str, most: int = 90) -> str:
    """At most so many characters, cut between words."""
    if len(text) <= most:
        return text
    return f"{text[: most - 4].rpartition(' ')[0] or text[: most - 4]} ..."
