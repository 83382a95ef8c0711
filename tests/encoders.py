"""Tiny random encoders of several families with tokenizers of one token per byte, saved as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from holdtrue.reward import store
from holdtrue.settings import ModelSettings

SPECIAL = ("<pad>", "<cls>", "<sep>", "<mask>")
_PAIR = "<cls>:0 $A:0 <sep>:0 $B:1 <sep>:1"
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
_MODERN = {"local_attention": 8, "global_attn_every_n_layers": 2, "reference_compile": False}
FAMILIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "bert": (_SIZES, "<cls> $A <sep>", _PAIR),
    "roberta": (_SIZES | {"max_position_embeddings": 514}, "<cls> $A <sep>", "<cls> $A <sep> <sep> $B <sep>"),
    "deberta-v2": (_SIZES | _DEBERTA, "<cls> $A <sep>", _PAIR),
    "modernbert": (_SIZES | _MODERN, "<cls> $A <sep>", "<cls> $A <sep> $B <sep>"),
    "t5": (_T5, "$A <sep>", "$A <sep> $B <sep>"),
}
"""Configuration, and what the tokenizer makes of one text and of two."""
_OTHERS = {
    "fnet": _SIZES,
    "eurobert": _SIZES | {"num_key_value_heads": 4},
    "ibert": _SIZES,
    "squeezebert": _SIZES | {"embedding_size": 32},
}
_SHAPES = FAMILIES | {name: (sizes, "<cls> $A <sep>", _PAIR) for name, sizes in _OTHERS.items()}
TYPED = {"bert", "deberta-v2"}
FAMILY_HEADS = {
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "deberta-v2": "classifier",
    "modernbert": "classifier",
    "t5": "classification_head.out_proj",
}


def tokenizer(family: str) -> Any:
    """One token per byte after the four special tokens; pairs as the family's tokenizer makes them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    _, single, pair = _SHAPES[family]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<cls>", 1), ("<sep>", 2)]
    )
    names = ["input_ids", *(["token_type_ids"] if family in TYPED else []), "attention_mask"]
    ends = {"eos_token": "<sep>"} if family == "t5" else {"cls_token": "<cls>", "sep_token": "<sep>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=names,
        **ends,
    )


def write(folder: Path, family: str = "bert", form: str = "masked", **changes: Any) -> Path:
    """A folder with a random ``masked`` LM, ``bare`` encoder or ``classifier``, and its tokenizer.

    Weights are spread so that attention matters.
    """
    config = AutoConfig.for_model(
        family,
        **_SHAPES[family][0]
        | {"vocab_size": 260, "pad_token_id": 0, "eos_token_id": 2, "num_labels": 1}
        | changes,
    )
    masked = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForMaskedLM
    kinds = {"masked": masked, "bare": AutoModel, "classifier": AutoModelForSequenceClassification}
    model = kinds[form].from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim == 1 else scale * noise)
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> store.Loaded:
    """As a command loads it."""
    return store.load(ModelSettings(path=str(folder), **settings), seed=42)


def trained(loaded: store.Loaded) -> store.Loaded:
    """As if trained: everything trainable has moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return loaded
