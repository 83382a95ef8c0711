"""Numbers that do not overflow, and positions that are right."""

from __future__ import annotations

from holdtrue.doctor.remedies import TrainingRemedy


class Precision(TrainingRemedy):
    """bfloat16 instead of float16, sdpa instead of eager attention, padding on the left to generate."""

    grade = "A"
    evidence = (
        "Qwen2-7B, perplexity on wikitext: eager float16 nan, eager bfloat16 7.997, sdpa 7.133; a padded "
        "row of "
        "Qwen2.5-VL begins with ` addCriterion`, an unpadded one does not"
    )
    source = "huggingface/transformers#33317, its test of Qwen2.5-VL; EvolvingLMMs-Lab/lmms-eval#830"
    mends = frozenset({"numerics"})

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL pads prompts on the left by itself."""
        return {
            "trl": {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "sdpa"}},
            "verl": {
                "actor_rollout_ref.rollout.dtype": "bfloat16",
                "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
            },
            "holdtrue": {"model.dtype": "bfloat16"},
        }
