"""Tokens a second of rollout generation: the shared prefix against ``model.generate``, plain and TRL's.

    python benchmarks/sampler.py [--quick] [--rounds 5] [--output sampler.json]

Random Llamas of 0.6 M and 11 M parameters with 4,096 ids, float32, 4 prompts of 72 or 300 tokens, groups of
4 and 8, 48 new tokens a row (no end token is drawn). Rounds run the systems in turn. TRL's line is
``_generate`` of its GRPOTrainer (TRL 1.16); neither it nor ``generate`` gives log-probabilities.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

from measurement import Sample, Stopwatch, alternate, machine, middle, ratio, show, write

# isort: split
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.generate import GenerateSampler
from holdtrue.policy.sampler import SharedPrefixSampler

SIZES = {"tiny": (64, 2, 128, 4), "10M": (320, 6, 864, 5)}
PROMPTS, NEW, END = 4, 48, 2
FOREVER = Vocabulary(eos=frozenset({END}))


def policy(size: str) -> Any:
    """A random Llama whose end token is out of reach, so that every row has all its tokens."""
    width, layers, inner, heads = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    head = torch.nn.Linear(width, 4096)
    head.weight.data.copy_(model.lm_head.weight.data)
    head.bias.data.zero_()[END] = -100.0
    model.lm_head = head
    return model


def generate(model: Any, prompts: list[np.ndarray], group: int) -> Callable[[int], Any]:
    """Plain ``model.generate``, which computes each prompt once per answer."""
    ids = torch.from_numpy(np.stack(prompts)).repeat_interleave(group, dim=0)

    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
        )

    return run


def trl(model: Any, prompts: list[np.ndarray], group: int) -> Callable[[int], Any] | None:
    """The generation of TRL's GRPO on the same ids; None where TRL is not installed."""
    try:
        from trl import GRPOConfig, GRPOTrainer
    except ImportError:
        return None
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<bos>": 1, "<eos>": END} | {f"t{i}": i for i in range(3, 4096)}
    backend = Tokenizer(models.WordLevel(words, unk_token="t3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    texts = [" ".join(f"t{i}" for i in prompt) for prompt in prompts]
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            tempfile.mkdtemp(),
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=PROMPTS * group,
            num_generations=group,
            max_completion_length=NEW,
        ),
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
    )
    model.eval()
    repeated = [text for text in texts for _ in range(group)]

    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        return trainer._generate(repeated)

    return run


def timed(run: Callable[[int], Any]) -> Callable[[int], Sample]:
    """One sample a call."""

    def once(seed: int) -> Sample:
        with torch.no_grad(), Stopwatch() as watch:
            run(seed)
        return Sample(watch.cpu, watch.wall)

    return once


def measure(size: str, length: int, group: int, rounds: int, peers: bool) -> dict[str, Any]:
    """Tokens a CPU second of each system on one workload, and how many times ours they take."""
    model = policy(size)
    prompts = [np.random.default_rng(p).integers(3, 4096, length) for p in range(PROMPTS)]
    decoding = Decoding(max_new_tokens=NEW)
    shared, plain = SharedPrefixSampler(FOREVER, decoding), GenerateSampler(FOREVER, decoding)
    systems = {
        "shared prefix": lambda seed: shared.sample(model, prompts, group, seed),
        "generate sampler": lambda seed: plain.sample(model, prompts, group, seed),
        "transformers generate": generate(model, prompts, group),
    }
    if peers and (grpo := trl(model, prompts, group)):
        systems["TRL GRPO"] = grpo
    samples = alternate({name: timed(run) for name, run in systems.items()}, rounds)
    tokens = PROMPTS * group * NEW
    line: dict[str, Any] = {"policy": size, "prompt": length, "G": group}
    for name, found in samples.items():
        line[f"{name}, tokens/s"] = tokens / middle(found)
        if name != "shared prefix":
            line[f"{name}, times ours"] = ratio(found, samples["shared prefix"])
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the tiny policy, one round, no claim")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="file for the numbers")
    options = parser.parse_args()
    sizes = ["tiny"] if options.quick else list(SIZES)
    rounds = 1 if options.quick else options.rounds
    lines = [
        measure(size, length, group, rounds, not options.quick)
        for size in sizes
        for length in (72, 300)
        for group in (4, 8)
    ]
    show("Rollout generation, tokens per CPU second on one thread", lines, list(lines[0]))
    if options.output:
        write(options.output, {"machine": machine(), "workloads": lines})


if __name__ == "__main__":
    main()
