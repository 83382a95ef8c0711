"""What each finding of the reward audit leads to, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """``why`` it matters and the ``fix``, with a reported case of it where there is one."""

    name: str
    why: str
    fix: str
    source: str = ""


VETO = "wrap it in holdtrue.doctor.veto.veto, or subtract a penalty for what follows the accepted answer"

ADVICE: Mapping[str, Advice] = {
    "R01": Advice(
        "suffix_blind",
        "junk behind the answer earns what the answer earns, or more, so nothing stops the habit; "
        "KL to a checkpoint that has the habit keeps it",
        "A reward of the format alone may stay blind where another one in the "
        "sum is not; a reward model needs such answers among its rejected ones",
        "Visual-Agent/DeepEyes#131",
    ),
    "R02": Advice(
        "control_keyed",
        "the policy can write these tokens itself, so it is paid for a tool that never ran",
        "pay for what the environment logged, not for text of the policy; forbid the tokens in sampling; "
        f"{VETO}",
        "Visual-Agent/DeepEyes#131",
    ),
    "R03": Advice(
        "repeat_lover",
        "a policy that says everything twice is paid for it, and loops are what it learns",
        "read the answer once; penalise repetition near its end; add looped answers to the rejected ones of "
        "the reward model",
        "PKU-Alignment/safe-rlhf#71",
    ),
    "R04": Advice(
        "length_slope",
        "longer is better paid whatever is said, so answers grow until they are cut",
        "train the reward model on data balanced in length (data.transforms=[balance_length], loss odin), or "
        "subtract what length explains",
        "hiyouga/LlamaFactory#4012",
    ),
    "R05": Advice(
        "skip_special_view",
        "trainers differ in whether they decode with skip_special_tokens, so the reward of one answer does; "
        "where they skip, control tokens are invisible to every reward that reads text",
        "take a turn end off before reading; look for control tokens in the ids (veto's control_ids)",
        "Visual-Agent/DeepEyes#131",
    ),
    "R06": Advice(
        "not_a_signal",
        "there is nothing to learn from one number, and one NaN in a batch makes all its gradients NaN",
        "give a finite number for every answer, an unparsable one the least; look at which part of the sum "
        "never changes",
        "huggingface/trl#5697",
    ),
    "R07": Advice(
        "cut_paid",
        "answers cut by the token limit are paid like finished ones, so nothing teaches the policy to stop",
        "give the least to answers that did not end (finish reason length), or mask them from the loss",
    ),
    "R08": Advice(
        "nothing_paid",
        "saying nothing earns as much as answering: the shortest way to that reward is an empty answer",
        "give the least to answers without content before anything else is counted",
        "QwenLM/Qwen3.8#216",
    ),
    "R09": Advice(
        "flattery",
        "praise of the user and assurances are cheap, and will stand in every answer",
        "add answers with and without them, of equal content, to the training pairs, or subtract a penalty",
    ),
    "R10": Advice(
        "prompt_blind",
        "an answer to something else earns as much, so one good-looking text for all prompts is enough. Of "
        "a reward of the format alone this is expected",
        "train the reward model with answers of other prompts as opponents (data.transforms="
        "[noncontextual]), or check against a ground truth",
    ),
    "R11": Advice(
        "batch_dependent",
        "the reward of an answer depends on which answers are scored with it, so it is noise to the policy",
        "score each answer by itself; look for padding, for a mean taken over the batch, and for state kept "
        "between answers. Group statistics belong in the advantage",
        "QwenLM/Qwen3-VL#759",
    ),
    "R12": Advice(
        "not_deterministic",
        "the same answer gets another reward each time; advantages of a group are partly this noise",
        "fix seeds, sample no judge at a temperature above 0 or average several, put dropout off (eval mode)",
    ),
    "R13": Advice(
        "squashed",
        "differences vanish where the scale ends: good and better answers are worth the same",
        "use the raw score before sigmoid, tanh or clipping, or divide it by a temperature first",
    ),
    "R14": Advice(
        "breaks",
        "a policy in training writes such answers sooner or later, and the run stops or loses the batch",
        "catch it in the reward and give the least; put a limit on the time of parsing and of patterns",
    ),
}
"""By id."""
