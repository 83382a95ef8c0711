"""Comparisons of two summaries, as published with "Learning to summarize from human feedback".

    info        {subreddit, title, post} of a Reddit post, or {article} of a news article
    summaries   two objects with text
    choice      0 or 1: which summary the worker preferred
    worker      optional: who chose
    any other column is kept as metadata

The prompt is written out as in the paper (arXiv 2009.01325): ``SUBREDDIT: r/...``, ``TITLE: ...``,
``POST: ...`` and ``TL;DR:`` with blank lines between; articles as ``Article:``, the text on the next line and
``TL;DR:``. Summaries begin with a blank and stay as they are. Source:
https://github.com/openai/summarize-from-feedback#human-feedback-data
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdtrue.data.fields import BadRow, mapping, objects, option, text
from holdtrue.data.formats import Format, holds, pair, with_prompt
from holdtrue.records import Group


class TLDR(Format):
    """``{info, summaries, choice}``: two summaries of a Reddit post or an article."""

    columns: ClassVar[Mapping[str, str]] = {
        "info": "an object with subreddit, title and post, or with article",
        "summaries": "two objects with the summary in text",
        "choice": "which of them is better, 0 or 1",
        "worker": "who chose, text",
    }
    needs: ClassVar[tuple[str, ...]] = ("info", "summaries", "choice")
    sample: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "info": {"subreddit": "tea", "title": "Cold tea?", "post": "My tea went cold. I drank it."},
            "summaries": [{"text": " Tea went cold.", "policy": "a"}, {"text": " Drank cold tea."}],
            "choice": 1,
            "worker": "w1",
        },
        {
            "info": {"subreddit": "keys", "title": "Lost keys", "post": "They were in the door."},
            "summaries": [{"text": " Keys were in the door."}, {"text": " Keys."}],
            "choice": 0,
            "batch": "batch3",
        },
        {
            "info": {"post": None, "title": "Rain", "article": "It rained on Monday."},
            "summaries": [{"text": "Monday was wet."}, {"text": "Monday was dry."}],
            "choice": 0,
        },
    )

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Info, summaries and choice."""
        return holds(row, *cls.needs)

    def parse(self, row: Mapping[str, Any]) -> Group:
        info, summaries = mapping(row, "info"), objects(row, "summaries", "two summaries")
        if len(summaries) != 2:
            raise BadRow("wrong type", f"summaries has {len(summaries)} items, expected two")
        answers = [text(summary, "text") for summary in summaries]
        label = option(row, "choice", {0: 1.0, 1: 0.0})
        worker = None if row.get("worker") is None else text(row, "worker")
        prompt, (one, other) = with_prompt(_prompt(info), answers, self.plain_text)
        return pair(prompt, one, other, {"label": label, "rater": worker})


def _prompt(info: Mapping[str, Any]) -> str:
    if info.get("article") is not None:
        return f"Article:\n{text(info, 'article')}\n\nTL;DR:\n"
    subreddit, title, post = (text(info, name) for name in ("subreddit", "title", "post"))
    return f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
