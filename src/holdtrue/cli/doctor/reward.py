"""``holdtrue doctor reward``: which junk a reward pays for or cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import DataError, QualityError, SettingsError

if TYPE_CHECKING:
    from holdtrue.doctor.findings import Diagnosis
    from holdtrue.doctor.rewards import Case, Reward
    from holdtrue.records import Answer, Group


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
    asked, plain_text = open_reward(reward, timeout, trust_remote_code)
    cases, left_out = _cases(data or [], examples, format, frame.columns_from(columns), plain_text)
    diagnosis = audit(asked, cases, limit=timeout)
    value = {"reward": reward, "examples": len(cases), "left_out": left_out} | diagnosis.as_json()
    failed = diagnosis.verdict == "fail"
    return frame.Result(value, _text(value, diagnosis), QualityError.exit_code if failed else 0)


def open_reward(name: str, timeout: float, trust_remote_code: bool) -> tuple[Reward, Any]:
    """The reward behind an argument, and what plain strings are to be read as for it.

    Raises:
        SettingsError: it is none of the four forms. ModelError: the model cannot be used.
    """
    from holdtrue.doctor import reward_servers, rewards

    if "://" in name:
        return reward_servers.from_url(name, timeout), "raw"
    path = Path(name)
    if path.is_dir():
        return _model(path, trust_remote_code)
    function = name.rpartition(":")[2]
    if ":" in name and function.isidentifier():
        return rewards.from_name(name), "raw"
    if name.endswith(".py"):
        raise SettingsError(f"name the function in it too: {name}:my_reward")
    raise SettingsError(
        f"{name} is no folder, URL or function; give a run or model folder, http://HOST/PATH, "
        "or FILE.py:FUNCTION"
    )


def _model(path: Path, trust_remote_code: bool) -> tuple[Reward, Any]:
    from holdtrue.cli import scoring
    from holdtrue.records import Answer, Group
    from holdtrue.reward.folders import compares
    from holdtrue.rundir import find_model
    from holdtrue.settings import DataSettings

    if compares(find_model(path)):
        raise SettingsError(
            f"{path} compares two answers; the audit is of rewards that one answer has by itself"
        )
    judge = scoring.load(path, DataSettings(), trust_remote_code)
    chat = judge.data.plain_text == "chat"

    def reward(cases: Sequence[Case]) -> list[float]:
        read = [case.as_chat() if chat else case for case in cases]
        groups = [Group(case.prompt, (Answer(case.answer),)) for case in read]
        return [float(values[0]) for values in judge.scorer.score(groups)]

    return reward, judge.data.plain_text


def _cases(
    data: list[str], count: int, format: str | None, columns: dict[str, str], plain_text: Any
) -> tuple[list[Case], int]:
    """The first ``count`` honest answers, two of a row at most; how many with junk in them were left out.

    Raises:
        DataError: no row is usable, or all have junk.
    """
    from holdtrue.data.reader import Reader
    from holdtrue.doctor.reward_cases import built_in
    from holdtrue.doctor.rewards import Case
    from holdtrue.doctor.veto import holds_junk

    if not data:
        return built_in()[:count], 0
    cases: list[Case] = []
    left_out = 0
    reader = Reader(data, format=format, columns=columns, plain_text=plain_text)
    for group in reader:
        for answer in _two(group):
            case = Case(group.prompt, answer.content, str(group.source), group.meta)
            if not case.text.strip() or holds_junk(case.text):
                left_out += 1
            elif len(cases) < count:
                cases.append(case)
        if len(cases) >= count:
            break
    else:
        reader.report.require_rows()
    if not cases:
        raise DataError(
            f"all {left_out} answers of the data are empty or hold control tokens; none is honest"
        )
    return cases, left_out


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
    left_out = f" ({value['left_out']} with junk in them left out)" if value["left_out"] else ""
    verdict = (
        f"{diagnosis.verdict.upper()}: {value['reward']} on {value['examples']} honest answers{left_out}"
    )
    return "\n".join([*lines, "", verdict])
