"""A word-level tokenizer and a tiny Llama decoder, trained from scratch in seconds.

For worlds whose every word is known beforehand. torch and transformers are imported where used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from holdtrue.errors import Interrupted
from holdtrue.records import Messages, as_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
PUNCTUATION = (".", ",", "!", "?", "'", ":", ";", "-", " ", "\n")
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 128


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer in ChatML form.

    A word takes the space before it along (`` router`` and ``router`` are two tokens), so decoding is
    plain joining and gives back the exact text. Case matters. ``<|im_end|>`` is EOS, ``<pad>`` is a
    token of its own, there is no BOS, and an unknown word becomes ``<unk>``.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spelled = [form for word in sorted(set(words)) for form in (word, f" {word}")]
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *PUNCTUATION, *spelled))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[^A-Za-z]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
        model_max_length=CONTEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def train_decoder(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Iterator[Messages],
    *,
    seed: int = 0,
    steps: int = 300,
    batch_size: int = 24,
    learning_rate: float = 2e-2,
    stop: Callable[[], bool] = lambda: False,
) -> LlamaForCausalLM:
    """A Llama of 0.14 M parameters (2 layers of width 64, context 128) fitted to the answers.

    AdamW, warm-up over a tenth of the steps, then linear decay to 0. ``conversations`` must yield
    ``steps * batch_size``; none is used twice. Runs on one thread, so that the weights do not depend
    on how many there are; torch's random state and thread count are left as they were.

    Raises:
        Interrupted: ``stop``, which is asked before each step, said so; nothing is kept.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _decoder(tokenizer)
        _fit(model, tokenizer, conversations, steps, batch_size, learning_rate, stop)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def _fit(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Iterator[Messages],
    steps: int,
    batch_size: int,
    learning_rate: float,
    stop: Callable[[], bool],
) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(steps // 10, 1)
    for step in range(steps):
        if stop():
            raise Interrupted(f"stopped after step {step} of {steps} of training the world's policy")
        factor = min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        loss = answer_loss(model, tokenizer, list(islice(conversations, batch_size)))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def answer_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
) -> Tensor:
    """Mean cross-entropy of the last turns' tokens, EOS among them [nats per token], shape ()."""
    import torch
    from torch.nn.functional import cross_entropy

    prompts = tokenizer.apply_chat_template(
        [as_json(c[:-1]) for c in conversations], tokenize=False, add_generation_prompt=True
    )
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = [c[-1].content + tokenizer.eos_token for c in conversations]
    answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    length = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    ids_BT = torch.full((len(conversations), length), tokenizer.pad_token_id)
    is_answer_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for row, (p, a) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        ids_BT[row, : len(p) + len(a)] = torch.tensor(p + a)
        is_answer_BT[row, len(p) : len(p) + len(a)] = True
    # Padding is on the right, where causal attention never sees it, and only answer rows need logits.
    hidden_BTD = model.model(ids_BT).last_hidden_state[:, :-1]
    read = is_answer_BT[:, 1:]
    return cross_entropy(model.lm_head(hidden_BTD[read]), ids_BT[:, 1:][read])


def _decoder(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,  # about 1 / sqrt(width); with 0.02 it does not learn to copy in time
    )
    return LlamaForCausalLM(config)
