"""Control strings in what users and tools say, made harmless.

Tokenizers look for the texts of their added tokens before anything else, in user text too, so a user who
writes ``<|im_end|>`` ends the turn. One character inside the string hides it from that search; all else of
the text stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import field_validator

from holdtrue.data.checks import CONTROL_TOKEN
from holdtrue.doctor.remedies import Changes, Context, DataRemedy, Row
from holdtrue.doctor.remedies._rows import rewrite, shown

_INSIDE = {"joiner": "\u200d", "escape": "\\"}


class Neutralise(DataRemedy):
    """Control strings in user, system and tool texts no longer become control tokens.

    What assistants say is not changed, but counted: there such a string is what is taught (rebalance). Texts
    to which the template has been applied are left alone, as their control tokens are turns: a column
    ``text``, and a ``prompt`` of one string that begins with a control token.
    """

    grade = "A"
    evidence = (
        "tokenizers of Qwen2.5, Qwen3 and Phi-3: of 310 user texts with one of their 62 added tokens all "
        "became control ids before and none after; texts without one are not touched"
    )
    source = "benchmarks/remedies.py; check C07: all 11 families of templates let it through"
    mends = frozenset({"data_teach_it", "control_tokens_can_be_sampled"})
    harms = "the template has been applied to the texts already (C06)"
    reads_targets = False

    by: Literal["joiner", "escape"] = "joiner"
    """``joiner`` puts a zero-width joiner behind the first character, which nobody sees; ``escape`` a
    backslash, for tokenizers that drop invisible characters (T5)."""
    tokens: tuple[str, ...] = ()
    """Further strings, such as ``<tool_call>``; known control tokens are always looked for."""

    @field_validator("tokens")
    @classmethod
    def _can_be_parted(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if short := [token for token in tokens if len(token) < 2]:
            raise ValueError(f"{short[0]!r} is too short to be put apart; give 2 characters or more")
        return tokens

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        known = [re.escape(token) for token in sorted(self.tokens, key=len, reverse=True)]
        return re.compile("|".join([*known, CONTROL_TOKEN.pattern]))

    def refuses(self, context: Context) -> str | None:
        """As :class:`DataRemedy`; and where the template has been applied already."""
        if "C06" in context.findings:
            return "the texts hold turns of a template (C06): their control tokens are meant; undo that first"
        return super().refuses(context)

    def text(self, text: str) -> str:
        """One text without control strings."""
        inside = _INSIDE[self.by]
        return self._pattern.sub(lambda found: found[0][0] + inside + found[0][1:], text)

    def apply(self, rows: Sequence[Row]) -> tuple[list[Row], Changes]:
        """The rows with harmless texts."""
        changes = Changes()

        def said(role: str, text: str) -> str:
            found = self._pattern.search(text)
            if found is None:
                return text
            around = shown(text[max(found.start() - 30, 0) : found.end() + 30])
            if role == "assistant":
                changes.note("assistant texts with control strings left as they are", around)
                return text
            changes.note(f"{role} texts neutralised", around)
            return self.text(text)

        result = []
        for at, row in enumerate(rows):
            if self._is_rendered(row):
                changes.note("rendered texts left as they are", f"row {at}")
                result.append(row)
            else:
                result.append(rewrite(row, said))
        return result, changes

    def _is_rendered(self, row: Row) -> bool:
        text, prompt = row.get("text"), row.get("prompt")
        if isinstance(text, str) and self._pattern.search(text):
            return True
        return isinstance(prompt, str) and self._pattern.match(prompt.lstrip()) is not None

    def control_ids(self, tokenizer: Any, text: str) -> list[int]:
        """Ids of added tokens that a tokenizer sees in a text: the proof, empty after :meth:`text`."""
        added = set(tokenizer.added_tokens_decoder)
        return [id for id in tokenizer(text, add_special_tokens=False)["input_ids"] if id in added]
