"""Tokenizers of chat families, built offline: a token per byte, control tokens, the template TRL bundles."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdtrue.doctor.checks import all_checks
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject


class Chat(NamedTuple):
    """A family's template (its file in TRL), its control tokens, and EOS, PAD and BOS as published."""

    template: str
    tokens: tuple[str, ...]
    eos: str
    pad: str | None = None
    bos: str | None = None


_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<tool_call>", "</tool_call>")
_LLAMA = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
)
_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_DEEPSEEK = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    *(
        f"<｜tool▁{part}▁{at}｜>"
        for part in ("calls", "call", "outputs", "output")
        for at in ("begin", "end")
    ),
    "<｜tool▁sep｜>",
)
_GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_PHI = ("<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>")

CHATS = {
    "Qwen2.5": Chat("qwen2_5", _QWEN, "<|im_end|>", "<|endoftext|>"),
    "Qwen2.5-VL": Chat("qwen2_5_vl", _QWEN, "<|im_end|>", "<|endoftext|>"),
    "Qwen3": Chat("qwen3", _QWEN, "<|im_end|>", "<|endoftext|>"),
    "Llama-3": Chat("llama3", _LLAMA, "<|end_of_text|>", None, "<|begin_of_text|>"),
    "Llama-3.1": Chat("llama3_1", _LLAMA, "<|eot_id|>", None, "<|begin_of_text|>"),
    "Gemma": Chat("gemma", _GEMMA, "<eos>", "<pad>", "<bos>"),
    "Gemma3": Chat("gemma3", _GEMMA, "<eos>", "<pad>", "<bos>"),
    "DeepSeek-V3": Chat("deepseekv3", _DEEPSEEK, _DEEPSEEK[1], _DEEPSEEK[1], _DEEPSEEK[0]),
    "R1-distill": Chat("deepseek_r1_distill", _DEEPSEEK, _DEEPSEEK[1], _DEEPSEEK[1], _DEEPSEEK[0]),
    "GLM-4 MoE": Chat("glm4moe", _GLM, "<|endoftext|>", "<|endoftext|>"),
    "Phi-3.5": Chat("phi3_5", _PHI, "<|endoftext|>", "<|endoftext|>"),
}


def trl_template(name: str) -> str:
    """A chat template that TRL bundles; the test is skipped where TRL is not installed."""
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("TRL, whose chat templates are read, is not installed")
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")


def byte_level(tokens: tuple[str, ...], bos: str | None = None, **options: Any) -> Any:
    """A byte-level BPE tokenizer without merges; the control tokens come first. With ``bos`` it adds it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: id for id, symbol in enumerate((*tokens, *alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tags = [one for one in tokens if not one.startswith(("<|", "<｜", "[")) and "_call" in one]
    backend.add_special_tokens([AddedToken(one, special=True) for one in tokens if one not in tags])
    backend.add_tokens([AddedToken(one, special=False) for one in tags])
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
        options["bos_token"] = bos
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def chat_tokenizer(family: str, **changes: Any) -> Any:
    """The tokenizer of a family of ``CHATS``; ``changes`` replace fields of it."""
    chat = CHATS[family]._replace(**changes)
    return byte_level(
        chat.tokens,
        chat.bos,
        eos_token=chat.eos,
        **({"pad_token": chat.pad} if chat.pad else {}),
        chat_template=trl_template(chat.template),
        padding_side="left",
    )


def chat_folder(folder: Path, family: str, **changes: Any) -> Path:
    """A folder with nothing but that tokenizer."""
    chat_tokenizer(family, **changes).save_pretrained(folder)
    return folder


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def chatml_folder(folder: Path, **options: Any) -> Path:
    """A folder with a ChatML tokenizer: the tokens of ``QWEN`` (0, 1, 2) and 256 bytes."""
    given = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML} | options
    byte_level(QWEN, **{"padding_side": "left", **given}).save_pretrained(folder)
    return folder


def put(folder: Path, name: str, value: Any) -> None:
    """Write a JSON file of a folder."""
    (folder / name).write_text(json.dumps(value))


def findings(subject: Subject, id: str) -> list[Finding]:
    """What one check finds."""
    return list(next(one for one in all_checks() if one.id == id).run(subject))


def finding(subject: Subject, id: str) -> Finding:
    """The only thing that a check finds."""
    (only,) = findings(subject, id)
    return only
