"""The answer goes on with the user's next turn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote

_HEADED = re.compile(r"###+ ?(?:Human|Assistant|User|Instruction|Response)\b ?:", re.IGNORECASE)
"""Roles as headings (Guanaco, Alpaca, Vicuna), also inside a line: models forget the break."""
_BARE = re.compile(
    r"assistant\n\n(?:(?<=[.!?\w]\nassistant\n\n)|(?<=[.!?]assistant\n\n))(?=\S)"
    r"|user\n\n(?:(?<=[.!?\w]\nuser\n\n)|(?<=[.!?]user\n\n))(?=\S)"
    r"|user\n(?<=\nuser\n)(?=[^\n]+\nassistant\n)"
)
"""The headers of Llama-3 and of ChatML without their control tokens, as skip_special_tokens leaves them. What
stands before them is looked at last: a pattern that begins with letters is searched ten times as fast."""
_PLAIN = re.compile(r"(?<=\n)(?:\*\*)?(?:Human|USER|User|用户) ?(?:\*\*)?[:：](?:\*\*)?\s?(?=\S)")
_REPLY = re.compile(r"^(?:\*\*)?(?:Assistant|ASSISTANT|AI|Bot|Model|助手) ?(?:\*\*)?[:：]", re.MULTILINE)
_ROLE = re.compile(r"^\W{0,4}[A-Z][\w .]{0,20} ?:", re.MULTILINE)
_ASKED = re.compile(
    r"\b(?:dialogue?s?|chats?|conversations?|interviews?|scripts?|transcripts?|role-?play)\b", re.I
)


class RoleContinuation(Detector):
    """After its answer the policy writes the user's next turn (``### Human: ...``), and often answers it.

    A role as a heading fails. A plain ``Human:`` or ``User:`` after a blank line fails when nothing
    before it and nothing in the prompt looks like a role: dialogues are asked for, too.
    """

    why: ClassVar = (
        "The policy never learned to stop: the end of its turn was no target, or targets were dialogues."
    )
    fix: ClassVar = (
        "Train the end of turn (doctor check: T02, C05, X02), cut dialogues in the data into turns, and stop "
        "generation on the roles' marks."
    )
    source: ClassVar = "huggingface/trl#734, #1623; unslothai/unsloth#416"

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The first role that the policy gave itself."""
        found = _heading(reading) or _bare(reading) or _plain(reading)
        if found is not None:
            evidence = quote(reading.text[found.start() : found.start() + 100])
            yield self.flag(
                "fail",
                f"after {found.start()} of {len(reading.text)} characters: {evidence}",
                span=(found.start(), reading.end),
                signature=f"continues as {found.group().strip('# :')}",
            )


def _heading(reading: Reading) -> re.Match[str] | None:
    if "##" not in reading.text or _HEADED.search(reading.prompt):
        return None
    return next(reading.find(_HEADED), None)


def _bare(reading: Reading) -> re.Match[str] | None:
    if not any(header in reading.text for header in ("assistant\n", "user\n")):
        return None
    return next(reading.find(_BARE), None)


def _plain(reading: Reading) -> re.Match[str] | None:
    if not any(role in reading.text for role in ("Human", "USER", "User", "用户")):
        return None
    found = next(reading.find(_PLAIN), None)
    if found is None or _ROLE.search(reading.text, 0, found.start()) or _ROLE.search(reading.prompt):
        return None
    rest = reading.text[found.end() : reading.end]
    apart = reading.text[: found.start()].replace("\r", "").endswith("\n\n")
    asks = _REPLY.search(rest) is not None or (apart and "?" in rest.partition("\n")[0])
    return found if asks and not _ASKED.search(reading.prompt) else None
