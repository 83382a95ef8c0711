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
        "GRPO on a GRU-64: share of looping answers 0.10 to 0.000 by step 40 in both arms and both seeds, "
        "same "
        "task reward; blind rewards 0.02 to 0.23 after 120 steps"
    )
    source = "knowledge of the doctor's toy run; Visual-Agent/DeepEyes#131; arXiv 2503.14476 for the form"
    mends = frozenset({"blind_reward", "control_tokens_can_be_sampled"})
    harms = "supervised training, which has no reward"
    not_in_sft = "supervised training has no reward"

    least: float = 0.0
    """Given for junk; no more than the reward's own minimum."""

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL takes the wrapped callable; verl a file with one."""
        return {
            "trl": {"reward_funcs": "holdtrue.doctor.veto.veto(reward, least=...)"},
            "verl": {
                "reward.custom_reward_function.path": "a file whose compute_score asks holds_junk first"
            },
        }
