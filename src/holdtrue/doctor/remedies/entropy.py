"""A bonus for spread."""

from __future__ import annotations

from pydantic import Field

from holdtrue.doctor.remedies import OWN, Context, TrainingRemedy

_JUNK = frozenset({"ctrl_token_in_body", "phantom_token", "mojibake", "attractor_token"})


class Entropy(TrainingRemedy):
    """A small entropy bonus, where all answers to a prompt have become the same."""

    grade = "C"
    evidence = (
        "keeps exploration alive where it ended; verl's default of 0.001 made entropy rise and then collapse "
        "(now 0); an entropy below 1 nat is fine in itself"
    )
    source = "verl-project/verl PR 781; rllm-org/rllm#116"
    mends = frozenset({"exploration_ended"})
    harms = (
        "answers hold junk ids: the bonus raises the ids that are never drawn, and so never punished, most"
    )
    not_in_sft = "supervised training has no exploration"

    coefficient: float = Field(0.001, gt=0)
    """Weight of the bonus."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where junk is drawn."""
        if seen := context.findings & _JUNK:
            return (
                f"{', '.join(sorted(seen))}: the bonus lifts every unlikely id, junk first, as what is "
                f"never drawn "
                "is never punished; ban those ids before"
            )
        return super().refuses(context)

    def engines(self) -> dict[str, dict[str, object]]:
        """In the loss."""
        return {
            "trl": {"entropy_coef": self.coefficient},
            "verl": {"actor_rollout_ref.actor.entropy_coeff": self.coefficient},
            OWN: {"algorithm.entropy_coef": self.coefficient},
        }
