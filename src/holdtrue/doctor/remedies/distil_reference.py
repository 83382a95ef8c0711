"""The reference as teacher, on the prompts where the policy failed."""

from __future__ import annotations

from pydantic import Field

from holdtrue.doctor.remedies import HABIT, Context, TrainingRemedy, percent
from holdtrue.errors import SettingsError


class DistilReference(TrainingRemedy):
    """A short repair: on flagged prompts the policy answers, and learns from the reference's probabilities.

    On-policy distillation with the reverse KL (Agarwal et al., 2024): the loss falls on what the policy
    itself writes, loops included, and the teacher says at each token what it would have done.
    """

    grade = "C"
    evidence = (
        "on-policy distillation is published (2306.13649) and cheap; as a repair of loops it is not measured"
    )
    source = "arXiv 2306.13649"
    mends = frozenset({"loops_taught_or_unpunished"})
    harms = "the reference has the habit itself (1 % of its answers or more): it would teach it"

    reference: str | None = None
    """Folder or name of the reference model, which settings need."""
    learning_rate: float = Field(1e-6, gt=0)
    """A repair, not a training."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where the reference is sick."""
        if context.reference is not None and context.reference >= HABIT:
            rate = percent(context.reference)
            return f"{rate} of the reference's own answers are degenerate: it would teach them"
        return super().refuses(context)

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL's ``experimental.gkd``: all samples the policy's own, reverse KL."""
        if self.reference is None:
            raise SettingsError("distil_reference needs reference: the folder or name of the reference model")
        return {
            "trl": {
                "teacher_model_name_or_path": self.reference,
                "lmbda": 1.0,
                "beta": 1.0,
                "learning_rate": self.learning_rate,
            },
            "verl": {
                "distillation.enabled": True,
                "distillation.teacher_model.model_path": self.reference,
                "distillation.distillation_loss.loss_mode": "k3",
                "distillation.distillation_loss.use_policy_loss": False,
                "actor_rollout_ref.actor.optim.lr": self.learning_rate,
            },
        }
