"""A reward that sees junk: an answer with any earns the least."""

from __future__ import annotations

from holdtrue.doctor.remedies import Context, TrainingRemedy

_PLAIN = frozenset({"tail_cycle", "near_loop"})
_SEEN = frozenset({"ctrl_token_in_body", "phantom_token", "reward_blind_suffix", "R02"})


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
    harms = (
        "in supervised training, which has no reward; answers loop in plain text alone: it does not see that"
    )
    not_in_sft = "supervised training has no reward"

    least: float = 0.0
    """Given for junk; no more than the reward's own minimum."""

    def refuses(self, context: Context) -> str | None:
        """As :class:`TrainingRemedy`; and where answers hold nothing it sees."""
        if context.findings & _PLAIN and not context.findings & _SEEN:
            return (
                "the loops are plain text, without control tokens and not behind a tag, and it does not see "
                "them; ngram_penalty and early_abort do"
            )
        return super().refuses(context)

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL takes the wrapped callable; verl a file with one."""
        return {
            "trl": {"reward_funcs": f"holdtrue.doctor.veto.veto(reward, least={self.least})"},
            "verl": {
                "reward.custom_reward_function.path": "a file whose compute_score asks holds_junk first"
            },
        }
