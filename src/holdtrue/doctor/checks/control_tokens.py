"""X01, X10: which special tokens training data holds, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdtrue.doctor.census import Census, TokenCensus
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.encoding import Encoded, readable
from holdtrue.doctor.facts import FAMILIES, family
from holdtrue.doctor.findings import Finding, Severity
from holdtrue.doctor.rendering import Template
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tallies import Places, of_encoded, shown

DEEPEYES = "Visual-Agent/DeepEyes#131"
SOME = 1e-3
"""Share of the targets above which control tokens in their text fail (the rollout detectors' limit)."""


@check("X01")
def control_tokens(subject: Subject) -> Results:
    """Census of control tokens: how often, where and after what each stands, how often it follows itself;
    fails where one follows itself, or stands in the text of more than 0.1 % of the targets."""
    refused = readable(subject).refused
    seen = subject.counted(Census)
    found, examples, tokens = seen.control_tokens(), seen.examples, seen.tokens
    lines = [_sentence(token, examples) for token in found]
    head = f"{len(found)} control tokens in {examples} examples, {tokens} tokens"
    yield Finding(
        "X01",
        "ok",
        "\n".join([head, *lines[:12], *([f"and {len(lines) - 12} more"] if len(lines) > 12 else [])]),
        values={
            "examples": examples,
            "tokens": tokens,
            "unrendered": refused,
            "control_tokens": [token.as_values(examples, tokens) for token in found],
        },
    )
    for token in found:
        if token.repeated and token.structural and "pad" not in token.text:
            yield _follows_itself(token)
    yield from _in_texts(seen, [t for t in found if t.structural and t.in_text])
    yield from _foreign(seen)


@of_encoded
class Attractors:
    """Targets that hold tokens into which the family falls, by id; ``texts`` are those of the ids."""

    def __init__(self, subject: Subject) -> None:
        tokenizer = subject.tokenizer
        try:
            model_type = subject.config.get("model_type")
        except Missing:
            model_type = None
        known = family(model_type, Template(tokenizer).controls)
        texts = known.attractors if known else [text for one in FAMILIES for text in one.attractors]
        self.texts = {
            found[0]: text
            for text in dict.fromkeys(texts)
            if len(found := tokenizer.encode(text, add_special_tokens=False)) == 1
        }
        if not self.texts:
            raise Missing("no attractor tokens are known for this family")
        self.holding = {id: Places() for id in self.texts}
        self.targets = 0

    def see(self, one: Encoded) -> None:
        if one.target is None:
            return
        self.targets += 1
        for id, found in self.holding.items():
            if one.target_holds(id):
                found.add(one.example.at)


@check("X10")
def attractor_tokens(subject: Subject) -> Results:
    """Rare tokens this family falls into when numerics break, where they stand in targets; warns."""
    readable(subject)
    found = subject.counted(Attractors)
    ids = found.texts
    values = {"tokens": {ids[id]: len(at) for id, at in found.holding.items()}}
    hit = {id: at for id, at in found.holding.items() if at}
    if not hit:
        names = ", ".join(repr(text) for text in ids.values())
        yield Finding("X10", "ok", f"none of {names} in {found.targets} targets", values=values)
        return
    first = [one for at in hit.values() for one in at.first]
    seen = "; ".join(f"{ids[id]!r} ({id}) in {len(at)} targets: {at}" for id, at in hit.items())
    yield Finding(
        "X10",
        "warn",
        seen,
        "the family writes these tokens when its numerics break; in data other than code they come from such "
        "rollouts",
        f"look at rows {shown(first, sum(map(len, hit.values())))} and delete those that are not code",
        "QwenLM/Qwen3-VL#759",
        values,
    )


def _sentence(token: TokenCensus, examples: int) -> str:
    before = ", ".join(f"{text!r} {times}" for text, times in token.before.most_common(3))
    where = ", ".join(f"{place} {times}" for place, times in token.places.most_common(4))
    return (
        f"{token.text} ({token.id}): {token.count} times in {token.examples / examples:.0%} of the examples; "
        f"followed by itself {token.follows_itself:.1%}; after {before}; in {where}"
    )


def _follows_itself(token: TokenCensus) -> Finding:
    return Finding(
        "X01",
        "fail",
        f"{token.text} ({token.id}) follows itself {token.repeated} times of {token.count} "
        f"({token.follows_itself:.1%}): {', '.join(token.at)}",
        "the model learns that this token is followed by itself, which is a loop",
        "leave out these rows: answers with drop_control; in raw texts drop the repeats",
        DEEPEYES,
        {
            "id": token.id,
            "repeated": token.repeated,
            "count": token.count,
            "at": token.at,
            "fix": {"remedies": ["drop_control", "neutralise"]} if token.in_text else {},
        },
    )


def _in_texts(seen: Census, tokens: Sequence[TokenCensus]) -> Results:
    """Control tokens in what somebody said: literal strings that the tokenizer reads as control tokens."""
    for token in tokens:
        by_role = Counter[str]()
        for place, times in token.places.items():
            by_role[place.rpartition(" ")[0]] += times
        targets = seen.targets[token.id]
        said = {role: times for role, times in by_role.items() if role not in ("", "text")}
        if not said:
            continue
        own = {role for role in said if role.startswith("assistant")}
        severity: Severity = "fail" if targets > SOME * seen.examples else "warn"
        where = ", ".join(f"{times} in {role} text" for role, times in said.items())
        yield Finding(
            "X01",
            severity,
            f"{token.text} ({token.id}) stands in texts: {where}; in {targets} targets; "
            f"rows {', '.join(token.at)}",
            "the tokenizer reads the string as the control token: in a target the model learns to write it, "
            "in a prompt it ends a turn that goes on",
            "leave out the answers that hold it (drop_control) and make it harmless in what others say "
            "(neutralise), or encode texts with split_special_tokens=True",
            DEEPEYES,
            {
                "id": token.id,
                "token": token.text,
                "by_role": said,
                "targets": targets,
                "at": token.at,
                "fix": {
                    "remedies": [
                        *(["drop_control"] if own else []),
                        *(["neutralise"] if set(said) - own else []),
                    ]
                },
            },
        )


def _foreign(seen: Census) -> Results:
    """Control strings of other chat formats in what is to be learned."""
    for mark, at in sorted(seen.foreign.items(), key=lambda item: -len(item[1]))[:5]:
        severity: Severity = "fail" if len(at) > SOME * seen.examples else "warn"
        yield Finding(
            "X01",
            severity,
            f"{mark}, no token of this tokenizer, stands in {len(at)} targets: {shown(at)}",
            "it is the trace of another chat template; the model learns to write it letter by letter",
            "leave out these rows (drop_control)",
            "hiyouga/LlamaFactory#6987",
            {
                "string": mark,
                "targets": len(at),
                "at": at,
                "fix": {"remedies": ["drop_control"]},
            },
        )
