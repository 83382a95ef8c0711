"""W06: does the model itself end an answer that is finished, and a tool call?"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.data.examples import Example, Turn, content_of
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.encoding import Encoded, encode
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.forward import Forward, longest
from holdtrue.doctor.reading import quote
from holdtrue.doctor.rendering import Template, is_mark
from holdtrue.doctor.subject import SAMPLE, Missing, Subject
from holdtrue.doctor.tallies import shown
from holdtrue.doctor.training_settings import is_of_rl

MOST_RANK = 50
"""Median rank of the end above which it fails: sampling with transformers' default top_k never draws it."""
ROWS = 8
"""Rows of the data that are read, of each kind: a 7B takes seconds for each on a CPU."""
TOP = 20
"""Tokens that are kept of what may come next."""
ANSWERS, CALLS, BUILT_IN = "finished answers", "tool calls", "built in"
QUESTIONS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is 12 times 12?", "12 times 12 is 144."),
    ("Say hello in Spanish.", "Hola!"),
    ("Why is the sky blue?", "Air scatters blue light more than red light, so the sky looks blue."),
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CITY = {"city": "Paris"}
SOURCE = "QwenLM/Qwen3#1064; unslothai/unsloth#1072; huggingface/trl#1623"


_LEARN = "train with the end in the loss, or start from the chat model"
_FIRST = {
    "T02": "padding that hides the end",
    "C05": "masks that leave it out",
    "X01": "control tokens inside of targets: drop_control",
    "X02": "targets without it",
}
"""Findings that say why it was not learned."""
_STOP = "or let the engine stop at the closing tag of the call"


@dataclass(frozen=True)
class Finished:
    """Ids of conversations up to where the last turn is over, by place; ``left_out`` rows of the data are too
    long or not rendered. The shortest that is rendered has ``shortest`` ids, too long or not; 0: none is.
    """

    texts: Sequence[tuple[str, list[int]]]
    left_out: int
    shortest: int


@dataclass(frozen=True)
class Next:
    """What the model says behind a text: log-probabilities (V,) and ranks (V,).

    The rank of an id is how many ids are at least as likely, so that it gains nothing by ties.
    """

    at: str
    tail: str
    logprobs: NDArray[np.float32]
    ranks: NDArray[np.int64]

    def p(self, ids: Sequence[int]) -> float:
        """Probability that one of the ids comes next."""
        return float(np.exp(self.logprobs[list(ids)]).sum())


@check("W06")
def logit_lens(subject: Subject) -> Results:
    """Probability and rank of the declared ends behind finished answers, and behind tool calls where the
    template or the data have them, as the model gives them (--forward). Fails where the likeliest end has a
    median rank above 50; of models without a chat template, and of calls that are not in use, it warns. Warns
    too where the likeliest of all is a control token at which nothing stops.
    """
    if not subject.forward:
        raise Missing("no --forward given, which loads and runs the model")
    if not subject.stops:
        raise Missing("no end of an answer is declared (eos_token_id)")
    situations = {ANSWERS: _answers(subject), CALLS: _calls(subject)}
    answers = situations[ANSWERS]
    if not answers.shortest:
        raise Missing("the chat template renders no finished answer")
    if not answers.texts:
        most = longest(subject)
        raise Missing(f"the shortest finished answer takes {answers.shortest} tokens, and {most} can be read")
    forward = Forward.of(subject)
    for what, found in situations.items():
        known = [(at, ids) for at, ids in found.texts if max(ids) < forward.rows]
        if found.texts and not known:
            raise Missing(f"all {what} hold ids beyond the {forward.rows} rows of the embedding")
        if known:
            seen = [_next(subject, forward, at, ids) for at, ids in known]
            left_out = found.left_out + len(found.texts) - len(known)
            yield _judged(subject, what, seen, {"left_out": left_out, "adapted": forward.adapted})


def _answers(subject: Subject) -> Finished:
    talks = [
        ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
        for asked, said in QUESTIONS
    ]
    rows = (one for one in _sample(subject) if one.target is not None)
    return _finished(
        subject,
        [Example(talk, f"{BUILT_IN} {number}") for number, talk in enumerate(talks, 1)],
        (one for one in rows if not any(map(_is_call, one.messages[-1:]))),
    )


def _calls(subject: Subject) -> Finished:
    calling = (
        Example(_asking_weather(given), f"{BUILT_IN} call", tools=[TOOL])
        for given in (CITY, json.dumps(CITY))
    )
    built_in = (one.example for one in encode(calling, subject.tokenizer) if one.target is not None)
    rows = (
        replace(one, messages=one.messages[:end], rejected=None)
        for one in _sample(subject)
        if (end := next((at for at, turn in enumerate(one.messages, 1) if _is_call(turn)), 0))
    )
    return _finished(subject, [*islice(built_in, 1)], rows)


def _asking_weather(arguments: Any) -> tuple[Turn, ...]:
    """A question and a tool call; templates want the arguments as an object, or as JSON."""
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    return (
        {"role": "user", "content": "How is the weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    )


def _sample(subject: Subject) -> Iterator[Example]:
    """Some 200 rows of the data, evenly spread."""
    rows = subject.examples or []
    return islice(iter(rows), 0, None, max(1, len(rows) // SAMPLE))


def _is_call(turn: Turn) -> bool:
    """Whether the assistant's turn ends with a tool call."""
    text = content_of(turn).rstrip()
    return turn["role"] == "assistant" and (bool(turn.get("tool_calls")) or text.endswith("</tool_call>"))


def _finished(subject: Subject, built_in: Sequence[Example], rows: Iterable[Example]) -> Finished:
    """The built-in conversations that the template renders, and up to ``ROWS`` of the data."""
    ends = set(subject.stops)
    if subject.tokenizer.chat_template:
        ends |= set(subject.template.turn_end)
    texts, lengths, left_out, most = [], list[int](), 0, longest(subject)
    for some in (built_in, rows):
        cut = [(one.example.at, _cut(subject, one, ends)) for one in encode(some, subject.tokenizer)]
        whole = [(at, ids) for at, ids in cut if 0 < len(ids) <= most]
        lengths += [len(ids) for _, ids in cut if ids]
        texts += whole[:: max(1, len(whole) // ROWS)][:ROWS]
        left_out += len(cut) - len(whole) if some is rows else 0
    return Finished(texts, left_out, min(lengths, default=0))


def _cut(subject: Subject, one: Encoded, ends: Collection[int]) -> list[int]:
    """The ids before the end that is written behind the target; none without a target."""
    if one.target is None:
        return []
    ids: list[int] = one.ids.tolist()
    tokenizer = subject.tokenizer
    raw, behind = one.example.text is not None, one.target.end
    if raw:  # an end is part of it, maybe with white space behind
        behind = len(ids)
        while behind and (ids[behind - 1] in ends or not tokenizer.decode(ids[behind - 1]).strip()):
            behind -= 1
    ids = ids[: next((at for at in range(behind, len(ids)) if ids[at] in ends), len(ids))]
    begins = raw or not tokenizer.chat_template  # no template writes the BOS
    bos = [id for id in tokenizer("")["input_ids"][:1] if begins and id == tokenizer.bos_token_id]
    return ids if ids[:1] == bos else [*bos, *ids]


def _next(subject: Subject, forward: Forward, at: str, ids: list[int]) -> Next:
    logprobs = forward.after(ids)
    ranks = len(logprobs) - np.searchsorted(np.sort(logprobs), logprobs, side="left")
    return Next(at, subject.tokenizer.decode(ids[-16:]), logprobs, ranks)


def _judged(subject: Subject, what: str, seen: Sequence[Next], values: dict[str, Any]) -> Finding:
    if broken := [one.at for one in seen if np.isnan(one.logprobs).any()]:
        return Finding(
            "W06",
            "fail",
            f"the logits are NaN or infinite after {len(broken)} of {len(seen)} {what}: {shown(broken)}",
            "what is drawn then is the first id of the vocabulary, without end",
            "look for NaN in the weights (W05), and take the last checkpoint without",
            "vllm-project/vllm#14126",
            values,
        )
    values |= _measured(subject, seen)
    late = values["median_rank"] > MOST_RANK
    instead = next((one["id"] for one in values["controls"] if one["median_rank"] == 1), None)
    evidence = _evidence(subject, what, values)
    if not late and instead is None:
        return Finding("W06", "ok", evidence, values=values)
    expected = "tools" in subject.uses if what == CALLS else _should_answer(subject)
    why, fix = _advice(subject, what, instead)
    values |= {"mend_first": _FIRST} if _LEARN in fix else {}
    return Finding("W06", "fail" if late and expected else "warn", evidence, why, fix, SOURCE, values)


def _should_answer(subject: Subject) -> bool:
    """Whether the model is one that answers, or is about to: else it is a base model, before fine-tuning."""
    return bool(subject.tokenizer.chat_template) or is_of_rl(subject.settings)


def _measured(subject: Subject, seen: Sequence[Next]) -> dict[str, Any]:
    """Ranks and probabilities of ends and control tokens, and what is likeliest, as plain values."""
    template, width = Template(subject.tokenizer), len(seen[0].logprobs)
    if not (ends := [id for id in sorted(subject.stops) if id < width]):
        raise Missing(f"the declared ends {sorted(subject.stops)} lie beyond the {width} logits")
    marks = [id for id, text in template.controls.items() if is_mark(text, id in template.special)]
    controls: list[dict[str, Any]] = [
        {
            "token": template.name(id),
            "id": id,
            "median_rank": float(np.median([one.ranks[id] for one in seen])),
            "p": float(np.mean([one.p([id]) for one in seen])),
        }
        for id in marks
        if id < width and id not in ends
    ]
    prompts = [
        {
            "at": one.at,
            "tail": one.tail,
            "rank": int(min(one.ranks[ends])),
            "p_end": one.p(ends),
            "next": [
                {"token": _text(subject, id), "id": id, "p": one.p([id])}
                for id in np.argsort(-one.logprobs, kind="stable")[:TOP].tolist()
            ],
        }
        for one in seen
    ]
    return {
        "ends": ends,
        "median_rank": float(np.median([one["rank"] for one in prompts])),
        "p_end": float(np.mean([one["p_end"] for one in prompts])),
        "controls": sorted(controls, key=lambda one: (one["median_rank"], -one["p"]))[:TOP],
        "prompts": prompts,
    }


def _text(subject: Subject, id: int) -> str:
    """A token as text, quoted; as the vocabulary has it where it is no whole character."""
    text = subject.tokenizer.decode([id]) if id < len(subject.tokenizer) else ""
    return quote(text if text and "\ufffd" not in text else Template(subject.tokenizer).name(id))


def _evidence(subject: Subject, what: str, values: Mapping[str, Any]) -> str:
    """All ranks, and what comes instead where the end is least likely."""
    prompts, median = values["prompts"], values["median_rank"]
    own = [str(one["rank"]) for one in prompts if one["at"].startswith(BUILT_IN)]
    data = [str(one["rank"]) for one in prompts if not one["at"].startswith(BUILT_IN)]
    ranks = [f"{', '.join(some)} ({name})" for name, some in ((BUILT_IN, own), ("data", data)) if some]
    worst = max(prompts, key=lambda one: one["rank"])
    tokens = worst["next"][: TOP if what == CALLS else 5]
    parts = [
        f"{Template(subject.tokenizer).show(values['ends'])} behind {what}: rank "
        f"{'; '.join(ranks)}; median {median:g} (fails above {MOST_RANK}), mean p {values['p_end']:.2g}",
        f"least likely in {worst['at']}, where {quote(worst['tail'])} goes on with "
        + ", ".join(f"{one['token']} {one['p']:.2g}" for one in tokens),
    ]
    if values["controls"]:
        first = values["controls"][0]
        parts.append(
            f"of other control tokens {first['token']} comes first, median rank {first['median_rank']:,g}"
        )
    if values["left_out"]:
        parts.append(
            f"texts left out, not rendered, above {longest(subject):,} tokens or with ids beyond the "
            f"embedding: {values['left_out']}"
        )
    if subject.adapter is not None and not values["adapted"]:
        parts.append("without the adapter, which has no weights yet")
    return "; ".join(parts)


def _advice(subject: Subject, what: str, instead: int | None) -> tuple[str, str]:
    """Why it matters, and what to do."""
    template = Template(subject.tokenizer)
    if instead is not None:
        named = template.show([instead])
        if subject.tokenizer.chat_template and instead in template.turn_end:
            return (
                f"the model ends with {named}, at which nothing stops, and goes on behind it",
                f"add {named} to eos_token_id of generation_config.json (T01)",
            )
        return f"the model goes on with {named} where it should end", _LEARN
    if what == CALLS:
        return "the turn goes on behind the call, with text that no tool reads", f"{_LEARN}; {_STOP}"
    if not _should_answer(subject):
        return "a base model (no chat template) that has not learned to end an answer", _LEARN
    return "the end is hardly ever drawn: answers run to the length limit, in loops or other turns", _LEARN
