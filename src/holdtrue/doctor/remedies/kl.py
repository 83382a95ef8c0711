"""A pull towards the reference model."""

from __future__ import annotations

from pydantic import Field

from holdtrue.doctor.remedies import HABIT, OWN, Context, TrainingRemedy, percent


class Kl(TrainingRemedy):
    """A KL term to the reference in the loss. It keeps what the reference does, also a habit."""

    grade = "B"
    evidence = (
        "limits drift. Where the reference has the habit it keeps it: GRPO on a table, 8 seeds, loops "
        "0.107 became 0.089 (range 0.076 to 0.100); on a GRU-64 0.105 became 0.263 on one seed and 0.128 "
        "on another"
    )
    source = "arXiv 1909.08593, 2402.03300 (equation 4, the k3 estimate); benchmarks/remedies.py"
    mends = frozenset({"blind_reward", "loops_taught_or_unpunished"})
    harms = "the reference has the habit itself (1 % of its answers or more): KL preserves it"
    not_in_sft = "there is no policy that drifts from a reference; lower the learning rate"

    beta: float = Field(0.01, gt=0)
    """Weight of the term. By default, where there was one that did not help, twice that."""

    def fitted(self, context: Context) -> Kl:
        """With twice the weight there was."""
        return Kl(beta=2 * context.kl) if context.kl and "beta" not in self.model_fields_set else self

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where the reference is sick."""
        if context.reference is not None and context.reference >= HABIT:
            rate = percent(context.reference)
            return f"{rate} of the reference's own answers are degenerate: KL preserves that"
        return super().refuses(context)

    def engines(self) -> dict[str, dict[str, object]]:
        """In the loss, with the k3 estimate."""
        actor = "actor_rollout_ref.actor."
        return {
            "trl": {"beta": self.beta},
            "verl": {
                actor + "use_kl_loss": True,
                actor + "kl_loss_coef": self.beta,
                actor + "kl_loss_type": "low_var_kl",
            },
            OWN: {"algorithm.kl_coef": self.beta},
        }
