"""The page: template, style and scripts put into one HTML file that needs nothing else.

Plotly comes from its Python package. Its script is 4.8 MB, so it travels compressed inside the page
and is unpacked by the browser. The content policy names the two scripts by their hashes and allows
nothing else: no other script, no request, no frame, no form.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from holdtrue.report import wording

_HERE = Path(__file__).parent
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


def render(
    contents: Mapping[str, Any],
    figures: Mapping[str, Any],
    template: str = "page.jinja",
    script: str | None = None,
) -> str:
    """The HTML; the same contents and figures give the same bytes.

    ``figures`` are plotly figures by the name the template gives their place; ``script`` is a file beside
    this one that the template puts into the page.
    """
    charts = (_HERE / "charts.js").read_text(encoding="utf-8")
    own = (_HERE / script).read_text(encoding="utf-8") if script else ""
    html = (
        _environment()
        .get_template(template)
        .render(
            contents,
            figures=as_script_data(figures),
            style=(_HERE / "style.css").read_text(encoding="utf-8"),
            charts=charts,
            bundle=_compressed() if figures else "",
            policy=policy(*([charts, _plotly()] if figures or not script else []), *([own] if own else [])),
            script=own,
            drawn=set(figures),
        )
    )
    # A lone surrogate, which JSON allows and UTF-8 does not, becomes a question mark.
    return html.encode("utf-8", "replace").decode("utf-8")


def policy(*scripts: str) -> str:
    """Content security policy under which only these scripts run and nothing is fetched."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def as_script_data(value: Any) -> str:
    """JSON that can stand inside a script element: no character in it means anything to HTML."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def visible(text: Any) -> str:
    """Text whose control characters can be seen: NUL as ␀."""
    return str(text).translate(_CONTROLS)


def shorten(text: str, most: int, keep: str = "start", file: str = "evaluation.json") -> str:
    """At most ``most`` characters from the start or the end, saying how many are not shown, and where."""
    if len(text) <= most:
        return text
    note = f"[… {len(text) - most:,} more characters in {file}]"
    return f"{text[:most]} {note}" if keep == "start" else f"{note} {text[-most:]}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and type(value) is str else value,
    )
    environment.filters |= {
        "percent": wording.percent,
        "span": wording.span,
        "lead": wording.lead,
        "many": wording.many,
        "number": wording.number,
        "points": wording.points,
        "signed": wording.signed,
        "setting": wording.setting,
        "ways": wording.ways,
        "duration": wording.duration,
        "shorten": shorten,
        "measured": wording.measured,
        "difference": partial(wording.measured, sign=True),
    }
    return environment


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _compressed() -> str:
    return base64.b64encode(gzip.compress(_plotly().encode(), 9, mtime=0)).decode()
