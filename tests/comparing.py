"""Tiny random models that can be trained to compare: a Llama, a T5 and a BERT that know the toy's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import toy
from holdtrue.records import Answer, Comparison, Group, Message

KINDS = {"llama": "preference_lm", "t5": "preference_lm", "bert": "pair_ranker"}
_ASKING = (
    *("[CONTEXT]", "[RESPONSE", "A]", "B]", "POST:", "RESPONSE", "A:", "B:"),
    *("Which", "response", "is", "better?", "A", "B"),
)


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    special = ("<|pad|>", "<|end|>", "<|unk|>", "[CLS]", "[SEP]")
    words = dict.fromkeys(
        [*special, *toy.ROLES, *toy.GOOD, *toy.BAD, *toy.TOPICS, *toy.FILLER, "tell", "about", "?", *_ASKING]
    )
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad", "eos", "unk", "cls", "sep"), special, strict=True))
    tokens = {f"{name}_token": text for name, text in names.items()} | {"model_max_length": 128} | options
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


def write(folder: Path, family: str, **changes: Any) -> Path:
    """A random model of the family with its tokenizer, saved as it is before it learns to compare."""
    own = tokenizer()
    if family == "llama":
        own.chat_template = (
            "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <|end|> {% endfor %}"
            "{% if add_generation_prompt %}assistant{% endif %}"
        )
    own.save_pretrained(folder)
    size = len(own)
    torch.manual_seed(0)
    made: Any
    if family == "llama":
        made = LlamaForCausalLM(
            LlamaConfig(
                **{
                    "vocab_size": size,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "max_position_embeddings": 128,
                    "initializer_range": 0.1,
                    "pad_token_id": 0,
                    "eos_token_id": 1,
                    "bos_token_id": None,
                    **changes,
                }
            )
        )
    elif family == "t5":
        made = T5ForConditionalGeneration(
            T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
                pad_token_id=0,
                eos_token_id=1,
                **changes,
            )
        )
    else:
        made = BertForMaskedLM(
            BertConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=128,
                initializer_range=0.1,
                pad_token_id=0,
                **changes,
            )
        )
    made.save_pretrained(folder)
    return folder


def group(*answers: str, prompt: str = "tell about rain ?", compared: bool = True) -> Group:
    """A chat with these answers, the first preferred to the second."""
    return Group(
        (Message("user", prompt),),
        tuple(Answer((Message("assistant", text),)) for text in answers),
        (Comparison(0, 1),) if compared and len(answers) > 1 else (),
    )
