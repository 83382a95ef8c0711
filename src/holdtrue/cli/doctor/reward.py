"""``holdtrue doctor reward``: which junk a reward pays for or cannot see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, QualityError, SettingsError

if TYPE_CHECKING:
    from holdtrue.doctor.findings import Diagnosis
    from holdtrue.doctor.rewards import Case, Reward
    from holdtrue.records import Answer, Group
    from holdtrue.reward.scorer import Scored


def command(
    reward: Annotated[
        str,
        typer.Argument(
            metavar="FUNCTION|RUN|MODEL|URL",
            help="package.module:function, file.py:function, a run or model folder, or an http(s) URL.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="PATH", help="Prompts with honest answers, any layout. Repeatable."),
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=2, metavar="N", help="Honest answers: the first N of the data.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, metavar="S", help="Seconds one call for all N may take.")
    ] = 60.0,
    format: frame.Format = None,
    columns: frame.Columns = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Find out which junk a reward pays for or cannot see.

    Honest answers are given to it, and the same with junk behind them, control tokens, repeats, filler,
    praise, cut short, empty: some 60 calls. A function is run as it stands, with what its module runs when
    imported; naming it asks for that. Forms: TRL (prompts, completions, **columns), verl compute_score,
    OpenRLHF (queries, prompts, labels), (prompt, completion), (text). Other columns of the data reach it,
    such as a ground truth. A URL is spoken to as OpenRLHF's remote_rm_url, or as vLLM's when it ends with
    /classify or /pooling. Without --data the answers are twenty invented ones. Exit code 4 when a finding
    fails.
    """
    from holdtrue.doctor.reward_audit import audit

    if not data and (format or columns):
        raise SettingsError("--format and --column say how --data is read, and no --data is given")
    opened = open_reward(reward, timeout, trust_remote_code)
    cases, left_out = _cases(opened, data or [], examples, format, frame.columns_from(columns))
    diagnosis = audit(opened.reward, cases, limit=timeout)
    value = {"reward": reward, "examples": len(cases), "left_out": left_out} | diagnosis.as_json()
    failed = diagnosis.verdict == "fail"
    return frame.Result(value, _text(value, diagnosis), QualityError.exit_code if failed else 0)


@dataclass(frozen=True)
class Opened:
    """A reward, what plain strings of the data are read as for it, and why it cannot take an answer."""

    reward: Reward
    plain_text: Literal["chat", "raw"] = "raw"
    refuses: Callable[[Case], str | None] = lambda case: None


def open_reward(name: str, timeout: float, trust_remote_code: bool) -> Opened:
    """The reward behind an argument.

    Raises:
        SettingsError: it is none of the forms. ModelError: the model cannot be used.
    """
    from holdtrue.doctor import reward_servers, rewards

    if "://" in name:
        return Opened(reward_servers.from_url(name, timeout))
    path = Path(name)
    if path.is_dir():
        return _model(path, trust_remote_code)
    if ":" in name and name.rpartition(":")[2].isidentifier():
        return Opened(rewards.from_name(name))
    if name.endswith(".py"):
        raise SettingsError(f"name the function in it too: {name}:my_reward")
    raise SettingsError(
        f"{name} is no folder, URL or function; give a run or model folder, http://HOST/PATH, "
        "or FILE.py:FUNCTION"
    )


def _model(path: Path, trust_remote_code: bool) -> Opened:
    from holdtrue.cli import scoring
    from holdtrue.records import Answer, Group
    from holdtrue.reward.folders import compares
    from holdtrue.reward.scorer import NOT_FINITE
    from holdtrue.rundir import find_model
    from holdtrue.settings import DataSettings

    if compares(find_model(path)):
        raise SettingsError(
            f"{path} compares two answers; the audit is of rewards that an answer has by itself"
        )
    judge = scoring.load(path, DataSettings(), trust_remote_code)

    def score(cases: Sequence[Case]) -> list[Scored]:
        read = [case.as_chat() if judge.data.plain_text == "chat" else case for case in cases]
        return list(judge.scorer.stream(Group(case.prompt, (Answer(case.answer),)) for case in read))

    def refuses(case: Case) -> str | None:
        reason = score([case])[0].reasons[0]
        return None if reason == NOT_FINITE else reason  # that is for the audit to say

    return Opened(
        lambda cases: [float(scored.rewards[0]) for scored in score(cases)], judge.data.plain_text, refuses
    )


def _cases(
    opened: Opened, data: list[str], count: int, format: str | None, columns: dict[str, str]
) -> tuple[list[Case], dict[str, int]]:
    """The first ``count`` honest answers, two of a row at most; why others were left out, and how many.

    Raises:
        DataError: no row is usable, or none of the answers.
    """
    from holdtrue.data.reader import Reader
    from holdtrue.doctor.reward_cases import built_in
    from holdtrue.doctor.rewards import Case
    from holdtrue.doctor.veto import holds_junk

    left_out = Counter[str]()

    def usable(case: Case) -> bool:
        junk = not case.text.strip() or holds_junk(case.text)
        reason = "empty, or with control tokens" if junk else opened.refuses(case)
        left_out.update([reason] if reason else [])
        return reason is None

    def read() -> Iterator[Case]:
        for group in reader:
            source = f"{Path(group.source.file).name}:{group.source.line}" if group.source else ""
            for answer in _two(group):
                yield Case(group.prompt, answer.content, source, group.meta)

    reader = Reader(data, format=format, columns=columns, plain_text=opened.plain_text)
    cases = list(islice(filter(usable, read() if data else built_in()), count))
    if data and not cases:
        reader.report.require_rows()
    if len(cases) < 2:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "nothing else"
        raise DataError(f"the audit needs two honest answers or more; there are {len(cases)}, and {reasons}")
    return cases, dict(left_out)


def _two(group: Group) -> list[Answer]:
    """The answers of the first comparison, else the first two."""
    if group.comparisons:
        first = group.comparisons[0]
        return [group.answers[first.first], group.answers[first.second]]
    return list(group.answers[:2])


def _text(value: dict[str, Any], diagnosis: Diagnosis) -> str:
    """A paragraph for each finding, as wide as the terminal."""
    fill = TextWrapper(frame.console().width, initial_indent="     ", subsequent_indent="     ").fill
    lines = []
    for one in diagnosis.findings:
        lines.append(f"{one.severity.upper() if one.why else 'ok':4} {one.id} {one.values['name']}")
        lines.append(fill(one.evidence))
        if one.why:
            case = f" ({one.source})" if one.source else ""
            lines += [fill(f"why: {one.why}{case}"), fill(f"fix: {one.fix}")]
    lines += [f"-    {one.id} not judged: {one.why}" for one in diagnosis.skipped]
    reasons = ", ".join(f"{count} {reason}" for reason, count in value["left_out"].items())
    left_out = f"; left out: {reasons}" if reasons else ""
    verdict = (
        f"{diagnosis.verdict.upper()}: {value['reward']} on {value['examples']} honest answers{left_out}"
    )
    return "\n".join([*lines, "", verdict])
