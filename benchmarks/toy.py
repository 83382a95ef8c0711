"""A model and preference pairs so small that training on them takes a second, for tests and benchmarks.

The tokenizer knows some thirty words, the decoder is a Llama of width 16 with random weights. An answer is
preferred for the words of praise in it, so a reward model can learn all of the pairs.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

GOOD = ("kind", "clear", "right", "warm")
BAD = ("rude", "vague", "wrong", "cold")
TOPICS = ("rain", "bread", "chess", "paint", "trains", "bees")
FILLER = ("the", "answer", "is", "and", "so", "then")
ROLES = ("user", "assistant", "system")
SPECIAL = ("<|pad|>", "<|end|>", "<|unk|>")
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <|end|> {% endfor %}"


def write_model(
    folder: Path, *, width: int = 16, layers: int = 2, positions: int = 128, **config: Any
) -> Path:
    """A random Llama with its tokenizer, saved as a causal LM."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [*SPECIAL, *ROLES, *GOOD, *BAD, *TOPICS, *FILLER, "tell", "about", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|unk|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    values = {
        "vocab_size": len(words),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": positions,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    LlamaForCausalLM(LlamaConfig(**values | config)).save_pretrained(folder)
    return folder


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Preference pairs; the chosen side says more good words. Some prompts come twice."""
    draw = random.Random(seed)

    def answer(words: tuple[str, ...]) -> str:
        said = [draw.choice(FILLER) for _ in range(draw.randint(2, 8))]
        said[draw.randrange(len(said))] = draw.choice(words)
        return " ".join(said)

    return [
        {
            "prompt": f"tell about {' '.join(draw.choice(TOPICS) for _ in range(draw.randint(1, 3)))} ?",
            "chosen": answer(GOOD),
            "rejected": answer(BAD),
        }
        for _ in range(count)
    ]


def write_pairs(path: Path, count: int, seed: int = 0, rows: list[dict[str, Any]] | None = None) -> Path:
    """:func:`pairs` (or ``rows``) as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or pairs(count, seed)), encoding="utf-8")
    return path
