"""Hand-written glue against what a template writes: the strings between a tool call and the next answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from holdtrue.doctor.encoding import Encoded
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.tallies import of_encoded

RESULT = "{result}"
_STOP_STRINGS = ("stop", "stop_strings")
"""Settings that end an answer at a text: of vLLM and SGLang, of transformers."""


def own_end(subject: Subject) -> int | None:
    """The token with which the policy ends a turn itself, as data teach it, else as the template writes it;
    None where engines do not stop there, or a stop string of the settings comes before.
    """
    settings = subject.settings or {}
    kwargs = settings.get("generation_kwargs")
    given = {**settings, **(kwargs if isinstance(kwargs, Mapping) else {})}
    if any(value and str(name).rpartition(".")[2] in _STOP_STRINGS for name, value in given.items()):
        return None
    taught = subject.counted(Taught).ends if subject.examples else Counter[int]()
    end = taught.most_common(1)[0][0] if taught else next(iter(subject.template.turn_end), None)
    return end if end in subject.stops else None


@of_encoded
class Taught:
    """Which control token follows the targets, and how often; raw texts have none."""

    def __init__(self, subject: Subject) -> None:
        self.ends = Counter[int]()
        self._controls = subject.template.controls

    def see(self, one: Encoded) -> None:
        if one.target is not None and one.learned[-1].role == "assistant":
            behind = one.ids[one.target.end :].tolist()
            self.ends.update([id for id in behind if id in self._controls][:1])


class Nearest(NamedTuple):
    """The template's glue that hand-written glue comes nearest to.

    Attributes:
        role: of the turn in which the tool's words stand.
        wanted: what the template writes, from behind the policy's own end where ``own_end`` is set.
        whole: what it writes from the answer's words on.
        differences, of_whole: of the glue against ``wanted`` and ``whole``.
    """

    role: str
    wanted: str
    whole: str
    own_end: bool
    differences: list[str]
    of_whole: list[str]


def nearest(written: str, rendered: Mapping[str, str], end: str, controls: Sequence[str]) -> Nearest:
    """Compare glue with what a template writes for each role; ``end`` is the text of the turn's end where the
    policy samples it itself ("" where it does not): then glue may also begin behind it, and should.
    """
    found = []
    for role, whole in rendered.items():
        of_whole = differences(written, whole, controls)
        if end and whole.startswith(end):
            rest = whole.removeprefix(end)
            found.append(Nearest(role, rest, whole, True, differences(written, rest, controls), of_whole))
        found.append(Nearest(role, whole, whole, False, of_whole, of_whole))
    return min(found, key=lambda one: (len(one.differences), not one.own_end))


def differences(written: str, wanted: str, controls: Sequence[str]) -> list[str]:
    """What glue lacks or has too much against the template's, in words; the tool's own words may be anything.

    ``wanted`` holds ``{result}`` where these stand; ``written`` may hold it, or an example of them.
    """
    have, want = _pieces(written, controls), _pieces(wanted, controls)
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, want, have, autojunk=False).get_opcodes():
        missing, extra = "".join(want[a:b]), "".join(have[c:d])
        if kind == "equal":
            continue
        if RESULT in want[a:b]:  # the example's own words, unless they hold markers
            rest, words = missing.replace(RESULT, ""), [one for one in have[c:d] if one in controls]
            missing, extra = rest, "".join(words)
        if missing:
            found.append(f"missing {missing!r}")
        if extra:
            found.append(f"too much {extra!r}")
    return found


def _pieces(text: str, controls: Sequence[str]) -> list[str]:
    """Control strings, tags, line breaks and the words between them."""
    known = sorted((re.escape(one) for one in {*controls, RESULT} if one), key=len, reverse=True)
    return [one for one in re.split(f"({'|'.join(known)}|</?[a-z_]+>|\n)", text) if one]
