"""Tokens that the loss must not see."""

from __future__ import annotations

from holdtrue.doctor.remedies import Context, TrainingRemedy, percent

MOST_CUT = 0.5
"""Share of cut answers above which masking them leaves too little."""


class Masks(TrainingRemedy):
    """What tools wrote, and answers that the length limit cut, are left out of the loss.

    TRL and verl's agent loops mask tool tokens by themselves (``tool_mask``, ``response_mask``); a loop of
    your own must too.
    """

    grade = "B"
    evidence = (
        "standard for tool tokens (Search-R1, TRL, verl); filtering cut answers is a part of DAPO; not "
        "measured on loops"
    )
    source = "arXiv 2503.09516, 2503.14476 (section 3.4)"
    mends = frozenset({"limit_too_short", "tool_says_too_little"})
    harms = "more than half of the answers are cut: nothing would be left to learn from"

    truncated: bool = True
    """Cut answers too, not tool tokens alone."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where most answers are cut."""
        if self.truncated and context.truncated is not None and context.truncated > MOST_CUT:
            return (
                f"{percent(context.truncated)} of the answers are cut: masking them leaves too little to "
                f"learn "
                "from; raise the limit or mend the loops first"
            )
        return super().refuses(context)

    def engines(self) -> dict[str, dict[str, object]]:
        """verl has no setting for cut answers."""
        return {"trl": {"mask_truncated_completions": self.truncated}}
