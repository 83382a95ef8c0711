"""What is known of model families: ids that end their answers, tokens they fall into, numerics, sampling.

Sources stand beside each fact: model cards, configs as published, and reported cases (``owner/name#1``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: as people say it.
        model_types: values of ``model_type`` in config.json.
        mark: a control token that only this maker's models have; tells the family of a lone tokenizer.
        ends: texts of the tokens that end an answer, as the chat models' generation_config lists them.
        attractors: texts of single tokens the family falls into when numerics break.
        fp16: what is known of float16, empty when nothing is.
        eager: what is known of eager attention, empty when nothing is.
        needs_bos: True when it degrades without BOS.
        ships_two_bos: True when template and tokenizer write BOS as published, and engines know of it.
        sampling: temperature, top_p and top_k its makers advise for thinking, where they do.
        sources: of the above.
    """

    name: str
    model_types: tuple[str, ...]
    mark: str
    ends: tuple[str, ...]
    attractors: tuple[str, ...] = ()
    fp16: str = ""
    eager: str = ""
    needs_bos: bool = False
    ships_two_bos: bool = False
    sampling: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


_QWEN_ATTRACTORS = (" addCriterion", "matchCondition", "_marker", " bezpo")
_QWEN_MARK = "<|object_ref_start|>"
_QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")

FAMILIES = (
    Family(
        "DeepSeek",
        ("deepseek_v2", "deepseek_v3", "deepseek_v32"),
        "<｜end▁of▁sentence｜>",
        ("<｜end▁of▁sentence｜>",),
        ships_two_bos=True,
        sampling={"temperature": 0.6, "top_p": 0.95},
        sources=("sgl-project/sglang#12824", "the model card of DeepSeek-R1"),
    ),
    Family(
        "Qwen2.5",
        ("qwen2", "qwen2_moe"),
        _QWEN_MARK,
        _QWEN_ENDS,
        _QWEN_ATTRACTORS,
        fp16="eager float16 gives nan (perplexity of Qwen2-7B) and answers of `!!!!`",
        eager="eager bfloat16 perplexity of Qwen2-7B is 8.0 where sdpa has 7.1",
        sources=("huggingface/transformers#33317", "QwenLM/Qwen3#269", "vllm-project/vllm#14126"),
    ),
    Family(
        "Qwen2.5-VL",
        ("qwen2_5_vl", "qwen2_vl", "qwen2_5_vl_text", "qwen2_vl_text"),
        _QWEN_MARK,
        _QWEN_ENDS,
        _QWEN_ATTRACTORS,
        fp16="float16 overflows: answers of `!!!!`",
        eager="right padding, images in mid-prompt and eager attention give ` addCriterion`",
        sources=("QwenLM/Qwen3-VL#759", "huggingface/transformers#33317", "EvolvingLMMs-Lab/lmms-eval#830"),
    ),
    Family(
        "Qwen3",
        ("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen3_next"),
        _QWEN_MARK,
        _QWEN_ENDS,
        _QWEN_ATTRACTORS,
        sampling={"temperature": 0.6, "top_p": 0.95, "top_k": 20},
        sources=("the model cards of Qwen3", "oobabooga/textgen#7058"),
    ),
    Family(
        "Llama-3",
        ("llama", "mllama"),
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        ships_two_bos=True,
        sources=("vllm-project/vllm#4180", "unslothai/unsloth#1072"),
    ),
    Family(
        "Gemma",
        ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text"),
        "<start_of_turn>",
        ("<eos>", "<end_of_turn>"),
        fp16="float16 overflows to nan",
        needs_bos=True,
        sources=("huggingface/transformers#39972", "unslothai/unsloth#5055"),
    ),
    Family(
        "Phi-3",
        ("phi3", "phi3_v", "phimoe"),
        "<|placeholder1|>",
        ("<|end|>", "<|assistant|>", "<|endoftext|>"),
        sources=("huggingface/trl#7039",),
    ),
    Family(
        "GLM-4",
        ("glm", "glm4", "glm4_moe", "chatglm"),
        "<sop>",
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        sources=("THUDM/ChatGLM-6B#502",),
    ),
)


def family(model_type: str | None, controls: Mapping[int, str]) -> Family | None:
    """The family of a model: by its control tokens, and of those that share them by ``model_type``.

    The tokenizer comes first: R1 distilled into Qwen has Qwen's ``model_type`` and speaks as DeepSeek.
    """
    texts = set(controls.values())
    mark = next((one.mark for one in FAMILIES if one.mark in texts), None)
    alike = [one for one in FAMILIES if one.mark == mark] if mark else []
    typed = [one for one in alike or FAMILIES if model_type in one.model_types]
    return next(iter(typed or alike), None)


TEMPLATES: Mapping[str, str] = {
    "56a1447ad31926fd": "deepseek_r1_distill",
    "439ca50e037bdf26": "deepseek_r1_distill_training",
    "563b1ce7d61d50a9": "deepseekv3",
    "aadb4942004c186f": "deepseekv3_training",
    "ecd6ae513fe103f0": "gemma",
    "8d9e3a3c114fb205": "gemma3",
    "f168271feb9abc53": "gemma3_training",
    "33204f1acb5bd000": "gemma4",
    "55572b8d3c834204": "gemma4_v2",
    "781d10940fbc44be": "gemma4_v3",
    "2f1b4d75d067bae3": "gemma4_v4",
    "603a42db292c2527": "gemma4_v5",
    "ee06c456c3a7f9b1": "gemma_training",
    "44f815868bf02fa4": "glm4moe",
    "ad143c0a4d83db00": "glm4moe_training",
    "ba03a121d097859c": "llama3",
    "93c0e9aa3629bbd7": "llama3_1",
    "d82792f95932f1c9": "llama3_2",
    "bc213ef03ac49e40": "llama3_training",
    "dcaee66df77bfbb7": "phi3",
    "78d976a442bcde2f": "phi3_5",
    "a76a9651a9785afe": "phi3_5_training",
    "e07f1f264b65432c": "phi3_training",
    "55b2f4a26ac9ee71": "qwen2_5",
    "f3714f7117c9d447": "qwen2_5_training",
    "a0bc6f6fc7a29a80": "qwen2_5_vl",
    "31c85932a6d8826f": "qwen2_5_vl_training",
    "a55ee1b1660128b7": "qwen3",
    "273d8e0e683b8850": "qwen3_5_nothink",
    "f32fe3e21c20f59d": "qwen3_5_nothink_training",
    "a4aee8afcf2e0711": "qwen3_5_think",
    "ccf356d8f238e287": "qwen3_5_think_training",
    "e84f32a23fdda276": "qwen3_6",
    "c5a26eaf3aab77fd": "qwen3_6_training",
    "c3cf9e34abf4f9e3": "qwen3_8",
    "320c2f734288f91c": "qwen3_8_training",
    "64f85b198065d0fb": "qwen3_instruct_2507",
    "48e17aa3caf5bf20": "qwen3_instruct_2507_training",
    "1d944ff8f268b611": "qwen3_training",
    "9d879ef91075acbf": "qwen3_vl",
    "f0b310bf8e64c9dc": "qwen3_vl_training",
}
"""First 16 hex digits of the SHA-256 of published chat templates, without white space around -> their names.

Those of trl/chat_templates in TRL 1.16; ``_training`` marks TRL's own variants for training.
"""
