"""K06: settings that set nothing: names with a slip in them, and keys that contradict each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.dialect import KEYS, Engine, trl_name
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.training_settings import EARLY_STOP, OF_RL, VERL_KL

ALIKE = 0.85
"""Ratio of difflib from which on a name is a slip of another: a letter in ten is wrong."""
SAME_WORD = 0.6
"""Ratio from which on one word of a name is a slip of another; ``min`` and ``max`` have 0.33."""
SEVERAL = ("epsilon",)
"""What verl may well give in several keys with several values: a clip ratio, and one for either side."""


@check("K06")
def names(subject: Subject) -> Results:
    """Settings whose names are nearly those of others, keys of one meaning with two values, and verl's
    weights of the KL without their switch: warns, as all of these set nothing."""
    written = getattr(subject.run_settings, "written", None) or subject.run_settings
    near = dict(_slips(written, subject.dialect.engine))
    clashes = list(_clashes(written))
    if near:
        yield Finding(
            "K06",
            "warn",
            "; ".join(f"{name} is no setting anybody knows; {right} is" for name, right in near.items()),
            "a trainer that ignores unknown names runs with its default instead",
            f"write {', '.join(near.values())}"
            + "".join(
                f"; {right} is given too, as {written[right]}" for right in near.values() if right in written
            ),
            "",
            {"near": near},
        )
    if clashes:
        yield Finding(
            "K06",
            "warn",
            "; ".join(seen for seen, _ in clashes),
            "what the run does is not what the file seems to say",
            "; ".join(fix for _, fix in clashes),
            "",
            {"contradictions": [seen for seen, _ in clashes]},
        )
    if not near and not clashes:
        yield Finding(
            "K06", "ok", f"{len(written)} settings, no name with a slip in it and none against another"
        )


def _known(engine: Engine) -> set[str]:
    """Names of TRL, which the others share in part, and the program's own."""
    shared = {name for keys in KEYS.values() for name in keys.values()}
    of_verl = (
        {key for switch, weight, _ in VERL_KL for key in (switch, weight)} if engine == "verl" else set()
    )
    return {
        *shared,
        *OF_RL,
        *EARLY_STOP,
        *KEYS[engine],
        *of_verl,
        "learning_rate",
        "temperature",
        "top_p",
        "top_k",
    }


def _slips(written: Mapping[str, Any], engine: Engine) -> Iterator[tuple[str, str]]:
    """Names nobody knows, each with the known one that differs in one part alone, and little there; beside it
    too, as one who wants another value writes it below. In a file of TRL also another program's name that is
    TRL's, a word apart."""
    known = _known(engine)
    given = {str(key).removeprefix("training.") for key in written}
    for name in sorted(given - known):
        alike = {one: likeness for one in known if (likeness := _likeness(name, one))}
        if alike:
            yield name, max(alike, key=lambda one: alike[one])
        elif engine == "trl" and _is_nested(set(name.split("_")), set(trl_name(name).split("_"))):
            yield name, trl_name(name)


def _likeness(name: str, other: str) -> float:
    """0 where ``name`` is no slip of the other."""
    parts, others = name.split("."), other.split(".")
    differ = [(a, b) for a, b in zip(parts, others, strict=False) if a != b]
    if len(parts) != len(others) or len(differ) != 1:
        return 0.0
    ((a, b),) = differ
    words, more = a.split("_"), b.split("_")
    # clip_ratio_c is no slip of clip_ratio: it says more; nor min_length of max_length: it says another thing
    if _is_nested(set(words), set(more)) or (
        len(words) == len(more) and any(_ratio(*pair) < SAME_WORD for pair in zip(words, more, strict=True))
    ):
        return 0.0
    return ratio if (ratio := _ratio(a, b)) >= ALIKE else 0.0


def _is_nested(words: set[str], others: set[str]) -> bool:
    return words < others or words > others


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def _clashes(written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What contradicts itself, and what to do."""
    alike: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in written.items():
        if value is not None:
            alike[trl_name(str(key))][str(key)] = value
    for name, keys in alike.items():
        if len({repr(value) for value in keys.values()}) > 1 and name not in SEVERAL:
            yield (
                " and ".join(f"{key} {value}" for key, value in keys.items()),
                f"keep one of {', '.join(keys)}",
            )
    for switch, weight, default in VERL_KL:
        if written.get(weight) not in (None, 0, default) and not written.get(switch):
            yield (
                f"{weight} {written[weight]} without {switch}",
                f"set {switch} to true, or leave out {weight}",
            )
    if all(written.get(switch) for switch, _, _ in VERL_KL):
        one, other = (switch for switch, _, _ in VERL_KL)
        yield f"{one} and {other}: the KL counts twice", f"switch one of {one} and {other} off"
