"""``holdtrue plan``: what a training run would read, drop and need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdtrue.cli import frame
from holdtrue.errors import SettingsError

if TYPE_CHECKING:
    from holdtrue.settings import Settings


def command(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA|SETTINGS.yaml...", help="Preference pairs, or settings.")
    ],
    model: frame.Model = None,
    format: frame.Format = None,
    columns: frame.Columns = None,
    overrides: frame.Overrides = None,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Say what a training run would read, drop and need, from the real data and a short probe.

    Rows kept and dropped with reasons, a conversation as the model reads it with the token that is read,
    parameters, memory and time. The same as "train --dry-run". Nothing is written.
    """
    settings = frame.settings_from(data, model=model, format=format, columns=columns, overrides=overrides)
    return plan_result(settings, trust_remote_code)


def plan_result(settings: Settings, trust_remote_code: bool) -> frame.Result:
    """The plan of these settings.

    Raises:
        SettingsError: data or model are missing.
    """
    if not settings.data.train or not settings.model.path:
        raise SettingsError("a plan needs data and a model: holdtrue plan PAIRS... --model PATH")
    from holdtrue.planning import plan

    value = plan(settings, trust_remote_code)
    return frame.Result(value, _text(value))


def _text(plan: dict[str, Any]) -> str:
    from holdtrue.data.transforms import sentence
    from holdtrue.reward.model import LAYOUTS

    model, memory = plan["model"], plan["memory_bytes"]
    lines = [
        f"model     {model['architecture']}: {model['parameters']:,} parameters, "
        f"{model['trainable']:,} trained, {model['precision']} on {model['device']}",
        "layout    " + LAYOUTS.get(model["layout"], f"padded: {model['layout_reason']}"),
    ]
    for split, counts in plan["data"].items():
        lost = {**counts.get("rejected", {}), **counts["dropped"]}
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in lost.items()) or "nothing"
        cut = "".join(f"; {n:,} {reason}" for reason, n in counts["cut"].items())
        lines.append(f"{split:<9} {counts['comparisons']:,} comparisons; left out: {left_out}{cut}")
        lines += [f"          {sentence(change)}" for change in counts.get("transformed", ())]
    lengths = ", ".join(f"{name} {value}" for name, value in plan["lengths"].items())
    unit, size = ("GiB", 2**30) if memory["total"] >= 2**30 else ("MiB", 2**20)
    parts = {name: f"{value / size:.2f}" for name, value in memory.items()}
    example = plan["example"]
    (start, end), token = example["answer_tokens"], example["read_token"]
    lines += [
        f"lengths   {lengths} tokens; at most {model['max_length']} fit",
        f"steps     {plan['steps']:,} of {plan['comparisons_per_step']} comparisons, peak learning rate "
        f"{model['learning_rate']:.2g}",
        f"memory    {parts['total']} {unit}: weights {parts['weights']}, gradients {parts['gradients']}, "
        f"optimizer {parts['optimizer']}, activations {parts['activations']} (measured)",
        f"time      {_duration(plan['seconds'])} for {plan['tokens']:,} tokens at "
        f"{plan['tokens_per_second']:,.0f} tokens/s (measured), plus validation and checkpoints",
        f"example   {example['tokens']} tokens, the answer is {start} to {end - 1}; "
        f"read: {example['read'] if token is None else repr(token)}",
        "",
        example["text"] + ("" if token is None else f" >>>{token}<<<"),
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{seconds:.0f} s"
    )
