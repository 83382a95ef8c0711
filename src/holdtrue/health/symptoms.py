"""The metrics the monitor watches: when each is worse, what it points to, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from holdtrue.health.changes import Limit


@dataclass(frozen=True)
class Symptom:
    """A metric that can become worse.

    Attributes:
        limit: when it has.
        cause: name of the likely cause.
        why: what that is, for people.
        fix: what to do.
        text: it is seen in the text alone, so it counts against a reward that rises.
        metric: what is measured, where a metric has two symptoms.
    """

    limit: Limit
    cause: str
    why: str
    fix: str
    text: bool = True
    metric: str | None = None


def _share(floor: float, limit: float | None) -> Limit:
    return Limit(floor=floor, limit=limit, share=True)


NUMERICS = Symptom(
    _share(0.0, 1e-9),
    "NAN_LOGITS",
    "log-probabilities are NaN or infinite: broken numerics, which also make a row repeat one token",
    "load the model in bf16 with sdpa or FlashAttention 2, not fp16 or eager attention, and check the "
    "quantisation; a repetition penalty would only hide it",
    text=False,
)

SYMPTOMS = {
    "not_finite": NUMERICS,
    "loop": Symptom(
        _share(0.02, 0.2),
        "LOOP",
        "answers repeat themselves and do not stop",
        "let the reward see it (veto or penalise looping answers), stop them with the loop guard, and look "
        "at whether the starting checkpoint loops too",
    ),
    "near_loop": Symptom(
        _share(0.02, 0.2),
        "COUNTER_LOOP",
        "answers repeat themselves with only their numbers changing",
        "as for loops; engines that look for exact repetition do not see these",
    ),
    "control": Symptom(
        _share(0.0, 0.001),
        "CONTROL_TOKEN_IN_ANSWER",
        "the policy samples control tokens inside its answers, and nothing tells it not to",
        "ban these ids when decoding and renormalise, give such answers no reward, and check that rewards "
        "read token ids: decoding with skip_special_tokens hides them",
    ),
    "phantom": Symptom(
        _share(0.0, 1e-9),
        "PHANTOM_TOKEN",
        "the policy samples ids that have a row in the model and no token",
        "mask the logits from len(tokenizer) on, when sampling and when training",
    ),
    "attractor": Symptom(
        _share(0.005, None),
        "ATTRACTOR_TOKEN",
        "rare tokens appear that this family falls into when attention, positions or precision are wrong",
        "check the attention implementation, the padding side and images in the middle of a prompt",
    ),
    "truncated": Symptom(
        _share(0.1, 0.5),
        "TRUNCATION",
        "answers are cut before they end",
        "raise the cap on new tokens",
    ),
    "miscounted": Symptom(
        _share(0.02, 0.1),
        "MULTIPLE_EOS",
        "answers counted as cut did end, with an end token the trainer does not know",
        "give the trainer every id of eos_token_id in generation_config.json",
        text=False,
    ),
    "empty": Symptom(
        _share(0.02, 0.2),
        "EMPTY_ANSWER",
        "answers hold nothing but their end",
        "check the generation prompt of the template, and a reward that pays for saying nothing",
    ),
    "seq_rep_4": Symptom(
        Limit(floor=0.1),
        "REPETITION",
        "answers repeat more of their own words",
        "see the answers and the reward",
    ),
    "tail_zlib": Symptom(
        Limit(floor=1.0),
        "REPETITION",
        "the ends of answers repeat themselves more",
        "see the answers and the reward",
    ),
    "distinct_4": Symptom(
        Limit("lower", floor=0.1),
        "MODE_COLLAPSE",
        "answers to one prompt become the same",
        "raise the KL coefficient or the temperature, and check what the reward is blind to",
    ),
    "confident_run": Symptom(
        Limit(floor=64),
        "CERTAINTY",
        "longer and longer stretches are sampled with a probability above 0.99, as in loops",
        "see the answers; stop early, or raise the KL coefficient",
    ),
    "entropy": Symptom(
        Limit("lower", floor=0.3),
        "ENTROPY_COLLAPSE",
        "the policy becomes certain of every token",
        "raise the upper clip or the KL coefficient, or lower the learning rate",
        text=False,
    ),
    "disorder": Symptom(
        Limit(floor=0.5),
        "ENTROPY_RISE",
        "the policy becomes unsure of every token, as before it falls apart",
        "lower the entropy bonus or the learning rate",
        text=False,
        metric="entropy",
    ),
    "flat_reward": Symptom(
        _share(0.2, 0.95),
        "NO_SIGNAL",
        "all answers to a prompt get the same reward, so nothing is learned from them",
        "mix prompts that are neither always nor never solved, and check the reward",
        text=False,
    ),
    "bad_reward": Symptom(
        _share(0.0, 1e-9),
        "BAD_REWARD",
        "rewards are NaN or infinite",
        "exclude such answers and mend the reward",
        text=False,
    ),
    "advantage_on_junk": Symptom(
        Limit(floor=0.01, limit=0.05),
        "REWARD_BLIND_TO_JUNK",
        "loops and control tokens get a share of what is learned",
        "give junk tokens no positive advantage: veto or penalise such answers, or mask their junk",
    ),
    "gap": Symptom(
        Limit(floor=0.01),
        "LOGPROB_GAP",
        "the engine that samples and the trainer disagree about the same tokens",
        "compare precision, temperature and the engine's version of the weights; correct with truncated "
        "importance sampling until then",
        text=False,
    ),
    "effective_sample": Symptom(
        Limit("lower", floor=0.1, limit=0.5),
        "LOGPROB_GAP",
        "importance weights between engine and trainer rest on few tokens",
        "as for the gap of log-probabilities",
        text=False,
    ),
}
"""Metric of :class:`~holdtrue.health.batch.Seen` -> what it means when it is worse."""

GAP_TREND = Symptom(
    SYMPTOMS["gap"].limit,
    "GAP_TREND",
    "the engine drifts away from the trainer step by step: weights or caches there are stale. "
    "This is not a collapse of the policy",
    "empty the prefix cache on every weight update (reset_prefix_cache), check the weight sync, then sample "
    "the same prompt twice",
    text=False,
)

SCORE_UP_TEXT_DOWN = Symptom(
    Limit(),
    "SCORE_UP_TEXT_DOWN",
    "the reward rises while the text becomes worse: it does not see what is wrong with the answers",
    "read the answers; let the reward see this metric, and stop by text metrics and not by reward",
)
