"""X05-X07: turns that should not be learned, broken ones, and tags in them that rewards read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from holdtrue.data.examples import Example, content_of
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.tallies import Places, of_examples, shown
from holdtrue.doctor.tool_calls import TOOLS
from holdtrue.doctor.training_settings import is_of_rl

DEEPEYES = "Visual-Agent/DeepEyes#131"
FEW = 0.01
"""Share of the examples above which empty answers fail, and text after the answer warns (ours)."""
TAGS = ("think", "answer", "tool_call", "tool_response")
PAID = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<tool_response>")
"""What only an environment should write; a reward that looks for it can be had by writing it."""


@of_examples
class ToolTurns:
    """Examples that hold turns of tools, and a target."""

    def __init__(self, subject: Subject) -> None:
        self.at = Places()

    def see(self, one: Example) -> None:
        if _tool_turn_is_learned(one):
            self.at.add(one.at)


@check("X05")
def loss_on_tools(subject: Subject) -> Results:
    """Turns of tools that the loss would train on; fails when the settings are of TRL's SFT and do not mask
    them, warns without settings. Other programs, and all of them in RL, mask them by themselves."""
    with_tools, total = subject.counted(ToolTurns).at, len(subject.examples or ())
    values = {"examples": len(with_tools)}
    if not with_tools:
        yield Finding("X05", "ok", f"no turn of a tool in {total} examples", values=values)
        return
    settings, engine = subject.settings, subject.dialect.engine
    masks = "assistant_only_loss is set" if (settings or {}).get("assistant_only_loss") else ""
    if engine != "trl" or is_of_rl(settings):
        masks = f"{engine} masks them" + (" in RL" if engine == "trl" else "")
    if masks:
        yield Finding("X05", "ok", f"{len(with_tools)} examples with turns of tools; {masks}", values=values)
        return
    yield Finding(
        "X05",
        "fail" if settings is not None else "warn",
        f"{len(with_tools)} of {total} examples hold turns of tools: {with_tools}; "
        "assistant_only_loss " + ("is not set" if settings is not None else "is not known"),
        "the model learns to write what tools answer, and then answers in their place",
        "set assistant_only_loss to true (the template needs generation markers)",
        "verl-project/verl PR 1668; modelscope/ms-swift#5998",
        values | {"fix": {"settings": {"assistant_only_loss": True}}},
    )


@of_examples
class Turns:
    """Conversations with an empty answer, and with two turns of one role in a row."""

    def __init__(self, subject: Subject) -> None:
        self.talks = 0
        self.empty_at: list[str] = []
        self.twice = Places()

    def see(self, one: Example) -> None:
        if one.text is not None:
            return
        self.talks += 1
        if any(map(_is_empty, one.messages)):
            self.empty_at.append(one.at)
        if _same_role_twice(one):
            self.twice.add(one.at)


@check("X06")
def broken_turns(subject: Subject) -> Results:
    """Empty answers fail; the same role twice in a row warns."""
    found = subject.counted(Turns)
    empty, twice, total = found.empty_at, found.twice, found.talks
    values = {"empty": len(empty), "same_role_twice": len(twice)}
    if empty:
        yield Finding(
            "X06",
            "fail" if len(empty) > FEW * total else "warn",
            f"{len(empty)} of {total} examples hold an empty assistant turn: {shown(empty)}",
            "the model learns to end at once",
            f"delete rows {shown(empty)} (all: values.at of --json)",
            "QwenLM/Qwen3.8#216",
            values | {"at": empty},
        )
    if twice:
        yield Finding(
            "X06",
            "warn",
            f"{len(twice)} of {total} examples hold two turns of one role in a row: {twice}",
            "templates render this in their own ways, and engines never do",
            f"join the turns of rows {twice}, or delete the rows",
            "verl-project/verl#7412",
            values,
        )
    if not empty and not twice:
        yield Finding("X06", "ok", f"{total} conversations, roles in turn and no answer empty", values=values)


@of_examples
class Tags:
    """Targets with tags that rewards read, and what is wrong with these."""

    def __init__(self, subject: Subject) -> None:
        self.targets = 0
        self.counts = dict.fromkeys(TAGS, 0)
        self.paid, self.unclosed, self.after = Places(), Places(), Places()

    def see(self, one: Example) -> None:
        if not one.learned_texts:
            return
        target = one.target or ""
        self.targets += 1
        for tag in TAGS:
            self.counts[tag] += f"<{tag}>" in target
        if any(mark in text for text in one.learned_texts for mark in PAID):
            self.paid.add(one.at)
        if any(_unbalanced(target, tag) for tag in TAGS):
            self.unclosed.add(one.at)
        if _after_last(target):
            self.after.add(one.at)


@check("X07")
def reward_visible_tags(subject: Subject) -> Results:
    """Tags that rewards read: what only an environment should write in targets (fails), tags that are not
    closed and text after the last answer or tool call (warn)."""
    found = subject.counted(Tags)
    counts, paid, unclosed, after, total = (
        found.counts,
        found.paid,
        found.unclosed,
        found.after,
        found.targets,
    )
    values = {"tags": counts, "paid": len(paid), "unclosed": len(unclosed), "text_after": len(after)}
    if paid:
        yield Finding(
            "X07",
            "fail",
            f"{len(paid)} targets hold what an environment writes ({', '.join(PAID)}): {paid}",
            "the model learns to write it itself, and a reward that looks for it pays for nothing",
            f"delete rows {paid}, or these strings from their answers",
            DEEPEYES,
            values,
        )
    if unclosed:
        yield Finding(
            "X07",
            "warn",
            f"{len(unclosed)} of {total} targets open a tag and do not close it, or the reverse: {unclosed}",
            "a reward that reads between tags finds nothing there",
            f"close the tags in rows {unclosed}, or delete the rows",
            "QwenLM/Qwen3.8#216",
            values,
        )
    if len(after) > FEW * max(1, total):
        yield Finding(
            "X07",
            "warn",
            f"{len(after)} of {total} targets go on after the last answer or tool call: {after}",
            "a reward that stops reading there cannot tell what follows from junk",
            f"cut the answers of rows {after} behind the tag",
            DEEPEYES,
            values,
        )
    if not paid and not unclosed and len(after) <= FEW * max(1, total):
        seen = ", ".join(f"<{tag}> in {count}" for tag, count in counts.items() if count) or "no tags"
        yield Finding("X07", "ok", f"{seen} of {total} targets", values=values)


def _tool_turn_is_learned(one: Example) -> bool:
    return any(turn["role"] in TOOLS for turn in one.messages[one.given :]) and one.target is not None


def _is_empty(turn: Any) -> bool:
    calls = turn.get("tool_calls") or turn.get("reasoning_content")
    return turn["role"] == "assistant" and not calls and not content_of(turn).strip()


def _same_role_twice(one: Example) -> bool:
    roles = [turn["role"] for turn in one.messages]
    return any(a == b and a not in TOOLS for a, b in pairwise(roles))


def _unbalanced(text: str, tag: str) -> bool:
    opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
    return opened != closed and not (tag == "think" and closed == 1 and not opened)  # a template may open it


def _after_last(text: str) -> bool:
    """Whether words follow the last ``</answer>`` or ``</tool_call>``."""
    end = max(
        text.rfind(f"</{tag}>") + len(f"</{tag}>") if f"</{tag}>" in text else -1
        for tag in ("answer", "tool_call")
    )
    return end >= 0 and bool(text[end:].strip())
