"""How a fix is carried out: the command that writes it, settings as the user's program takes them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from holdtrue.doctor.dialect import Dialect
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Overview, Subject

FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
"""Files of the model folder that a copy has changed keys of."""


def with_commands(subject: Subject, finding: Finding) -> str:
    """The finding's fix, and below it what carries it out; alone where only a person can."""
    fix = finding.values.get("fix")
    fix = fix if finding.severity != "ok" and isinstance(fix, Mapping) else {}
    lines = [finding.fix] if finding.fix else []
    written = [
        f"{name}: {key} = {_shown(value)}" for name in FILES for key, value in fix.get(name, {}).items()
    ]
    if "adapter_config.json" in fix and subject.adapter is not None:
        written += [f"adapter_config.json: {', '.join(fix['adapter_config.json'])}"]
    if "chat_template" in fix:
        written += ["chat_template.jinja"]
    if "mean_rows" in fix:
        written += [f"{len(fix['mean_rows'])} rows of the weights"]
    if finding.id == "T04" and "masks" in finding.values and finding.severity != "ok":
        written += ["masks.json for vLLM, SGLang and transformers"]
    if written:
        lines.append(f"{fix_command(subject)}  (writes {'; '.join(written)})")
    if fix.get("remedies"):
        lines.append(fix_command(subject, fix["remedies"]))
    if fix.get("settings"):
        lines.append(f"{subject.dialect.engine}: {flags(subject.dialect, fix['settings'])}")
    return "\n".join(lines)


def fix_command(subject: Subject, remedies: Iterable[str] = ()) -> str:
    """``holdtrue doctor fix`` for this subject, with the data remedies."""
    words = ["holdtrue", "doctor", "fix", str(subject.folder)]
    if subject.adapter is not None:
        words += ["--adapter", str(subject.adapter)]
    for file in subject.counted(Overview).files if subject.examples else ():
        words += ["--data", file]
    for name in remedies:
        words += ["--remedy", name]
    return shlex.join([*words, "--output", f"{Path(subject.folder).resolve().name}-fixed"])


def how_to_apply(
    dialect: Dialect, settings: Mapping[str, Any], masked: Iterable[int]
) -> dict[str, list[str]]:
    """Where to put the files that stand beside a corrected copy, by file: lines for a person."""
    how: dict[str, list[str]] = {}
    if masked:
        how["masks.json"] = [
            'TRL: as generation_kwargs the object of "transformers"; with use_vllm that of "vllm", its keys '
            "as integers",
            'verl: as +actor_rollout_ref.rollout.logit_bias the object in "vllm"; an agent loop takes it in '
            "its own sampling_params",
        ]
    if settings:
        how["settings_changes.json"] = [
            "put these keys in place of those of your settings file, or on the command line",
            f"{dialect.engine}: {flags(dialect, settings)}",
        ]
    return how


def flags(dialect: Dialect, changes: Mapping[str, Any]) -> str:
    """Settings on the command line of the program that trains."""
    return " ".join(_flag(dialect, key, value) for key, value in changes.items())


def _flag(dialect: Dialect, key: str, value: Any) -> str:
    shown = _shown(value)
    if dialect.engine == "verl":
        return shlex.quote(f"{key}={shown}")
    if dialect.engine == "holdtrue":
        return f"--set {shlex.quote(f'{key}={shown}')}"
    if dialect.engine == "openrlhf" and isinstance(value, bool):  # its switches take no value
        return f"--{key}" if value else f"(without --{key})"
    return f"--{key} {shlex.quote(shown)}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
