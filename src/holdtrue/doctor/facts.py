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
        mark: a control token that only this family has; tells the family of a lone tokenizer.
        ends: texts of the tokens that end an answer, as the chat models' generation_config lists them.
        attractors: texts of single tokens the family falls into when numerics break.
        fp16: what is known of float16, empty when nothing is.
        eager: what is known of eager attention, empty when nothing is.
        needs_bos: True when it degrades without BOS.
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
    sampling: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


_QWEN_ATTRACTORS = (" addCriterion", " matchCondition", "_marker", " bezpo")
_QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")

FAMILIES = (
    Family(
        "Qwen2.5-VL",
        ("qwen2_5_vl", "qwen2_vl", "qwen2_5_vl_text", "qwen2_vl_text"),
        "",
        _QWEN_ENDS,
        _QWEN_ATTRACTORS,
        fp16="float16 overflows: answers of `!!!!`",
        eager="right padding, images in mid-prompt and eager attention give ` addCriterion`",
        sources=("QwenLM/Qwen3-VL#759", "huggingface/transformers#33317", "EvolvingLMMs-Lab/lmms-eval#830"),
    ),
    Family(
        "Qwen2.5",
        ("qwen2", "qwen2_moe"),
        "",
        _QWEN_ENDS,
        _QWEN_ATTRACTORS,
        fp16="eager float16 gives nan (perplexity of Qwen2-7B) and answers of `!!!!`",
        eager="eager bfloat16 perplexity of Qwen2-7B is 8.0 where sdpa has 7.1",
        sources=("huggingface/transformers#33317", "QwenLM/Qwen3#269", "vllm-project/vllm#14126"),
    ),
    Family(
        "Qwen3",
        ("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen3_next"),
        "",
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
        "DeepSeek",
        ("deepseek_v2", "deepseek_v3", "deepseek_v32"),
        "<｜end▁of▁sentence｜>",
        ("<｜end▁of▁sentence｜>",),
        sampling={"temperature": 0.6, "top_p": 0.95},
        sources=("sgl-project/sglang#12824", "the model card of DeepSeek-R1"),
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
    """The family of a model: by ``model_type`` in config.json, else by the control tokens it alone has.

    A tokenizer tells more than ``model_type`` where both do: R1 distilled into Qwen speaks as DeepSeek.
    """
    texts = set(controls.values())
    marked = (one for one in FAMILIES if one.mark and one.mark in texts)
    typed = (one for one in FAMILIES if model_type in one.model_types and not one.mark)
    return next(marked, None) or next(typed, None)


TEMPLATES: Mapping[str, str] = {}
"""SHA-256 of published chat templates and what they are; those of the copies that TRL 1.16 bundles."""
