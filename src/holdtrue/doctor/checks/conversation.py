"""C, of conversations: are turns, tools and thoughts rendered, and do they stay when more turns follow?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from holdtrue.data.examples import Example
from holdtrue.doctor import rendering
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.encoding import is_rendered
from holdtrue.doctor.findings import Finding, Missing
from holdtrue.doctor.glue import nearest, own_end
from holdtrue.doctor.rendering import Template, Unrendered, answer, common_prefix
from holdtrue.doctor.subject import CALLER, SETTINGS, Overview, Subject
from holdtrue.doctor.tallies import of_examples
from holdtrue.doctor.training_settings import is_of_rl


class Part(NamedTuple):
    """Something that a template may drop: what it is, the uses that need it, and whether it is there."""

    name: str
    uses: tuple[str, ...]
    words: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None = None


@check("C03")
def prefix_preserving(subject: Subject) -> Results:
    """A conversation up to an answer must begin the whole conversation: else turns are trained on tokens that
    were never sampled. Fails where --uses or the settings sample such conversations, and where data lose
    thoughts; of other supervised data it warns, as nothing in them was sampled.
    """
    template, uses = subject.template, subject.uses
    template.plain(1)
    named = {use for use, who in uses.items() if who in (CALLER, SETTINGS)}
    kinds = {
        "multi-turn": (rendering.plain(3), "multi-turn" in named),
        "thinking": (
            rendering.thinking(3),
            "thinking" in named and bool({"multi-turn", "tools"} & set(uses)),
        ),
        "tools": (rendering.tool_use(), "tools" in named),
    }
    broken: dict[str, dict[str, Any]] = {}
    kept, used = [], []
    for kind, (messages, in_use) in kinds.items():
        try:
            found = _drift(template, messages, [rendering.TOOL] if kind == "tools" else None)
        except Unrendered:  # C04 says it
            continue
        kept += [] if found else [kind]
        if found:
            broken[kind] = found
            used += [kind] if in_use else []
    drifting = [one for one in subject.sample if one.target is not None and _example_drift(template, one)]
    sampled = bool(used) or (bool(drifting) and is_of_rl(subject.settings))
    thoughts = [one.at for one in drifting if _thinks_before_the_last(one)]
    values: dict[str, Any] = {"drift": broken, "examples": [one.at for one in drifting]}
    if not broken and not drifting:
        yield Finding("C03", "ok", f"earlier turns stay as they were: {', '.join(kept)}", values=values)
        return
    shown = [
        f"{kind}: from character {one['offset']}, in turn {one['turn']} ({one['role']}), {one['was']!r} "
        f"becomes {one['becomes']!r}"
        for kind, one in broken.items()
    ]
    if drifting:
        shown.insert(
            0,
            f"{len(drifting)} of {len(subject.sample)} examples, e.g. {', '.join(values['examples'][:3])}"
            + (f" ({len(thoughts)} with thoughts in earlier answers)" if thoughts else ""),
        )
    who = f"in use: {', '.join(f'{use} ({uses[use]})' for use in uses)}; " if uses else ""
    if sampled or not drifting:
        why = f"{who}turns that were sampled are rendered otherwise once more turns follow"
        fix = _KEEP_IDS
    else:
        lost = "the thoughts of earlier answers are not learned" if thoughts else "no words are lost"
        why = f"{who}nothing here is sampled, and {lost}; earlier answers are learned after another header"
        fix = _LAST_ANSWER
    yield Finding(
        "C03",
        "fail" if sampled or thoughts else "warn",
        "; ".join(shown),
        why,
        fix,
        "PrimeIntellect-ai/prime-rl#1334, verl-project/verl#7322",
        values | {"sampled": sampled, "thoughts": thoughts},
    )


@check("C04")
def role_dropped(subject: Subject) -> Results:
    """System turns, tools and thoughts must reach the rendered text; fails when one in use does not."""
    template, found = subject.template, []
    template.plain(1)
    for name, parts in _parts(subject).items():
        lost = {part.name: _lost(template, part) for part in parts}
        lost = {part: how for part, how in lost.items() if how}
        needed = {
            part.name: ", ".join(_users(subject, use) for use in part.uses)
            for part in parts
            if part.name in lost and all(_users(subject, use) for use in part.uses)
        }
        if lost:
            found.append(name)
            yield Finding(
                "C04",
                "fail" if needed else "warn",
                "; ".join(f"{part} {how}" for part, how in lost.items()),
                f"in use: {', '.join(sorted(set(needed.values())))}; the model never reads it"
                if needed
                else f"a conversation with {name} would lose it",
                f"use a chat_template.jinja that renders {name}" + (_THOUGHTS if name == "thoughts" else ""),
                "NVIDIA-NeMo/RL#1337" if name == "thoughts" else _TRL,
                {"part": name, "lost": lost, "needed": sorted(needed)},
            )
    raising = [(one.at, how) for one in subject.sample if (how := _raises(template, one))]
    if raising:
        yield Finding(
            "C04",
            "fail",
            f"{len(raising)} of {len(subject.sample)} examples are not rendered, e.g. "
            + ", ".join(at for at, _ in raising[:3])
            + f": {raising[0][1]}",
            "they stop training, or are dropped without a word",
            f"change rows {', '.join(at for at, _ in raising[:3])} (all: values.examples of --json) to what "
            "the template takes, or chat_template.jinja",
            _TRL,
            values={"examples": [at for at, _ in raising]},
        )
    if not found and not raising:
        yield Finding("C04", "ok", "system turns, tools and thoughts are rendered")


_KEEP_IDS = (
    "keep the sampled ids and append to them, or train with a prefix-preserving template "
    "(TRL has one for most families)"
)
_LAST_ANSWER = (
    "learn only the last answer of a row (holdtrue sft leaves rewritten answers out by itself; elsewhere one "
    "row for each answer), or train with a prefix-preserving template"
)
_TRL = "huggingface/trl, chat_templates/README.md"
_THOUGHTS = ", or keep each turn's sampled ids"


@of_examples
class Headed:
    """Examples with words that hold turn markers, which are not rendered already."""

    def __init__(self, subject: Subject) -> None:
        self._headers = subject.template.headers
        self.at: list[str] = []

    def see(self, one: Example) -> None:
        if not is_rendered(one) and any(h in _words(m) for m in one.messages for h in self._headers):
            self.at.append(one.at)


@check("C06")
def double_apply(subject: Subject) -> Results:
    """Texts that hold turn markers already; fails when any does, as the template puts them in again. Rows of
    two strings, prompt and answer, whose prompt is rendered are taken as they stand, and fine.
    """
    if subject.examples is None:
        raise Missing("no data is given")
    headers = subject.template.headers
    rows = subject.counted(Headed).at
    values = {"markers": list(headers), "examples": rows}
    counted = f"{len(rows)} of {len(subject.examples)} examples hold {' or '.join(map(repr, headers))}"
    if rows:
        yield Finding(
            "C06",
            "fail",
            f"{counted}: {', '.join(rows[:3])}",
            "the template is applied to text that was rendered before: turns within turns",
            "give messages, not rendered text; or two strings, prompt and completion, which are taken as "
            "they stand",
            "huggingface/trl, dataset formats: conversational or rendered, not both",
            values,
        )
    else:
        yield Finding("C06", "ok", counted, values=values)


@of_examples
class Injections:
    """Examples in which somebody else than the assistant says a control string."""

    def __init__(self, subject: Subject) -> None:
        self._texts = set(subject.template.controls.values())
        self.at: list[str] = []

    def see(self, one: Example) -> None:
        said = [_words(message) for message in one.messages if message.get("role") != "assistant"]
        if not is_rendered(one) and any(text in words for words in said for text in self._texts):
            self.at.append(one.at)


@check("C07")
def injection(subject: Subject) -> Results:
    """A control string in a user's words becomes the control token itself, in nearly every tokenizer."""
    template = subject.template
    end = template.turn_end
    probe = template.controls[end[0]] if end else next(iter(template.controls.values()), None)
    if probe is None:
        yield Finding("C07", "ok", "the tokenizer has no control tokens")
        return
    try:
        with_it = template.text([{"role": "user", "content": f"a {probe} b"}])
        without = template.text([{"role": "user", "content": "a  b"}])
        more = len(template.controls_in(with_it)) - len(template.controls_in(without))
    except Unrendered:  # a template that refuses the words cannot be injected into by them
        more = 0
    rows = subject.counted(Injections).at if subject.examples else []
    values = {"string": probe, "examples": rows}
    counted = (
        "" if subject.examples is None else f"; {len(rows)} of {len(subject.examples)} examples hold one"
    )
    if more > 0:
        yield Finding(
            "C07",
            "warn",
            f"{probe!r} in a user's words becomes its id{counted}"
            + (f": {', '.join(rows[:3])}" if rows else ""),
            "users and tool results can end turns and begin others, and control tokens are learned as words",
            "encode words of users and tools with split_special_tokens=True, or make the strings harmless "
            "(data remedy neutralise; Neutralise().text(words) before serving)",
            "Visual-Agent/DeepEyes#131",
            values | ({"fix": {"remedies": ["neutralise"]}} if rows else {}),
        )
    else:
        yield Finding("C07", "ok", f"{probe!r} in a user's words stays text{counted}", values=values)


@check("C08")
def hand_written_glue(subject: Subject) -> Results:
    """What an environment writes by hand between a tool call and the next answer, against the template; fails
    when markers or line breaks differ. A policy that samples the end of its turn itself, as it is a declared
    stop and no stop string comes before, needs none in the glue.
    """
    if subject.glue is None:
        raise Missing("no --glue given")
    template = subject.template
    rendered = _rendered_glue(template)
    if not rendered:
        raise Missing("the template renders neither a tool's nor a user's turn after an answer")
    end = own_end(subject)
    texts = tuple(template.controls.values())
    after = template.turn_end[:1] if end is not None else ()
    found = nearest(subject.glue, rendered, "".join(map(template.name, after)), texts)
    values = {
        "glue": subject.glue,
        "template": found.wanted,
        "role": found.role,
        "own_end": end,
        "differences": found.differences,
    }
    behind = "" if end is None else f", behind the {template.show([end])} that the policy samples itself"
    where = f"a {found.role} turn{behind if found.own_end else ''}"
    if found.differences:
        kept = f"; where that is not kept, {found.whole!r}" if found.own_end else ""
        yield Finding(
            "C08",
            "fail",
            f"against {where}: {'; '.join(found.differences)}; the template writes {found.wanted!r}"
            + (f"; without the sampled end: {'; '.join(found.of_whole)}" if found.own_end else ""),
            "the policy goes on from markers it was not trained with",
            f"write {found.wanted!r}{behind if found.own_end else ''}, with the tool's words for "
            f"{{result}}{kept}",
            "Visual-Agent/DeepEyes#131",
            {**values, "fix": {"glue": found.wanted}},
        )
        return
    twice = "" if found.own_end or end is None else "; if the policy's own end is kept, leave out the first"
    yield Finding("C08", "ok", f"as the template renders {where}{twice}", values=values)


def _drift(
    template: Template, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
) -> dict[str, Any] | None:
    """Where an answer's conversation first differs from the whole; None when it begins it."""
    whole = template.text(messages, tools=tools)
    for index, message in enumerate(messages[:-1]):
        if message.get("role") != "assistant":
            continue
        part = template.text(messages[: index + 1], tools=tools)
        at = common_prefix(part, whole)
        if at < len(part):
            turn = _turn_at(part, at, messages[: index + 1])
            role = messages[turn].get("role")
            return {
                "offset": at,
                "turn": turn,
                "role": role,
                "was": part[at:][:40],
                "becomes": whole[at:][:40],
            }
    return None


def _turn_at(text: str, offset: int, messages: Sequence[Mapping[str, Any]]) -> int:
    """The message in whose words, or before whose words, a character stands; the last for what follows."""
    start = 0
    for index, message in enumerate(messages):
        words = _words(message).rpartition("</think>")[2].strip()
        start = text.find(words, start) + len(words) if words and words in text[start:] else start
        if offset < start:
            return index
    return len(messages) - 1


def _example_drift(template: Template, example: Example) -> bool:
    if sum(message.get("role") == "assistant" for message in example.messages) < 2:
        return False
    try:
        return _drift(template, example.messages, example.tools) is not None
    except Unrendered:  # C04 counts them
        return False


def _thinks_before_the_last(example: Example) -> bool:
    answers = [turn for turn in example.messages if turn.get("role") == "assistant"]
    return any("<think>" in _words(turn) or turn.get("reasoning_content") for turn in answers[:-1])


def _parts(subject: Subject) -> dict[str, list[Part]]:
    tools = rendering.tool_use()
    think = rendering.thinking(2)
    return {
        "system turns": [
            Part(
                "the system turn",
                ("system",),
                rendering.SYSTEM,
                [{"role": "system", "content": rendering.SYSTEM}, *rendering.plain(1)],
            )
        ],
        "tools": [
            Part("the tools offered", ("tools",), "holdtrue_lookup", rendering.plain(1), [rendering.TOOL]),
            Part("the tool call", ("tools",), rendering.ARGUMENT, tools[:2]),
            Part("the tool's result", ("tools",), rendering.RESULT, tools[:3]),
        ],
        "thoughts": [
            Part("the last turn's thought", ("thinking",), rendering.thought(0), rendering.thinking(1)),
            Part("an earlier turn's thought", ("thinking", "multi-turn"), rendering.thought(0), think),
        ],
    }


def _users(subject: Subject, use: str) -> str:
    """Who has a use, for people; "" when nobody has."""
    if use == "system":
        at = subject.counted(Overview).system_at if subject.examples else ""
        return f"system ({at})" if at else ""
    several = "tools" if use == "multi-turn" and use not in subject.uses else use
    return f"{several} ({subject.uses[several]})" if several in subject.uses else ""


def _lost(template: Template, part: Part) -> str:
    """How a part is lost: "dropped", or what the template raises; "" when it is rendered."""
    try:
        return "" if part.words in template.text(part.messages, tools=part.tools) else "dropped"
    except Unrendered as error:
        return f"raises {error}"


def _raises(template: Template, example: Example) -> str:
    try:
        template.text(example.messages, tools=example.tools)
    except Unrendered as error:
        return str(error)
    return ""


def _rendered_glue(template: Template) -> dict[str, str]:
    """Role of the turn after a tool call -> what stands between the call's text and the next answer."""
    found: dict[str, str] = {}
    before = rendering.plain(1)
    for role in ("tool", "user"):
        messages = [*before, {"role": role, "name": "holdtrue_lookup", "content": rendering.RESULT}]
        try:
            text = template.text(messages, prompt=True).partition(answer(0))[2]
        except Unrendered:
            continue
        if rendering.RESULT in text:
            found[role] = text.replace(rendering.RESULT, "{result}")
    return found


def _words(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
