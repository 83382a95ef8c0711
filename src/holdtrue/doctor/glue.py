"""Hand-written glue against what a template writes: the strings between a tool call and the next answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

RESULT = "{result}"


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
