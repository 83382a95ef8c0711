"""A reward that sees junk: an answer with any earns the least."""

from __future__ import annotations

from holdtrue.doctor.remedies import TrainingRemedy


class Veto(TrainingRemedy):
    """The lowest reward for an answer with control tokens, phantom ids or text behind its last tag.

    :func:`holdtrue.doctor.veto.veto` wraps a reward of TRL's form so; verl and others take the same test
    (``holds_junk``) into their own reward function.
    """

    grade = "A"
    evidence = (
        "GRPO on a GRU-64: loops 0.10 became 0.000 by step 40, both arms and seeds; on a table, 8 seeds, "
        "0.107 became 0.001, with a blind reward 0.109; same task reward"
    )
    source = "benchmarks/remedies.py; Visual-Agent/DeepEyes#131"
    mends = frozenset({"blind_reward", "control_tokens_can_be_sampled"})
    harms = "in supervised training, which has no reward"
    not_in_sft = "supervised training has no reward"

    least: float = 0.0
    """Given for junk; no more than the reward's own minimum."""

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL takes the wrapped callable; verl a file with one."""
        return {
            "trl": {"reward_funcs": f"holdtrue.doctor.veto.veto(reward, least={self.least})"},
            "verl": {
                "reward.custom_reward_function.path": "a file whose compute_score asks holds_junk first"
            },
        }
