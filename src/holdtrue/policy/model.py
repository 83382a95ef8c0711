"""A policy as the training loop takes it: a causal LM that says how likely the learned tokens of a batch are.

It is laid out, packed and computed as reward models are; where these read a reward, it reads the tokens that
are marked in the trees. Logits (tokens, V) are never held at once, but for ``CHUNK`` tokens at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torch.utils.checkpoint import checkpoint

from holdtrue.errors import ModelError
from holdtrue.policy.sft_settings import PolicySettings
from holdtrue.reward import adapters
from holdtrue.reward.causal import read_causal
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.language import CHUNK, language_head
from holdtrue.reward.model import Batch, RewardModel, RewardOutput
from holdtrue.reward.store import Loaded, replacing
from holdtrue.tokens.conversation import prepare_tokenizer

_PADDING = ("<|endoftext|>", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>")


class Policy(RewardModel):
    """A causal LM (or a peft model around one).

    Attributes:
        reference: the policy it is compared with; no part of it, and never trained.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__(causal, pad_id=0)  # what stands in the padding is never seen
        trained = [p for p in causal.parameters() if p.requires_grad]
        self.language_head = language_head(self.inner, self.inner)
        for parameter in trained:  # the head of a reward model's base is frozen where it is not tied
            parameter.requires_grad_(True)
        self._reference: list[Policy] = []  # in a list, as a module would become a part

    @property
    def reference(self) -> Policy | None:
        """The policy it is compared with."""
        return self._reference[0] if self._reference else None

    def compare_with(self, reference: Policy) -> None:
        """Give ``divergence`` from now on.

        Raises:
            ModelError: the two do not read the same batches.
        """
        if reference.layout != self.layout:
            why = reference.layout_reason or self.layout_reason
            raise ModelError(f"policy and reference read different layouts of batches ({why})")
        reference.requires_grad_(False)
        reference.eval()
        reference.bf16 = self.bf16
        self._reference = [reference]

    def forward(self, batch: Batch) -> RewardOutput:
        """Of the M marked tokens: log-probability, whether each is the likeliest, and divergence."""
        tokens, states = batch.input_ids.flatten()[batch.mark_rows], self._before_marks(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pieces = [torch.split(tokens, CHUNK), torch.split(states, CHUNK)]
            if self.reference is not None:
                with torch.no_grad():
                    pieces.append(torch.split(self.reference._before_marks(batch), CHUNK))
            found = [
                checkpoint(self._read, *piece, use_reentrant=False) for piece in zip(*pieces, strict=True)
            ]
        logprobs, likeliest, divergence = (torch.cat(parts) for parts in zip(*found, strict=True))
        return RewardOutput(
            logprobs=logprobs, likeliest=likeliest, divergence=None if self.reference is None else divergence
        )

    def _before_marks(self, batch: Batch) -> Tensor:
        """(M, D) states at the tokens before the marked ones: every tree is one sequence."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self._hidden(batch).flatten(0, 1)[batch.mark_rows - 1]

    def _read(self, tokens: Tensor, states: Tensor, theirs: Tensor | None = None) -> tuple[Tensor, ...]:
        assert self.language_head is not None
        logits = self.language_head.logits(states)
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(1, tokens[:, None])[:, 0]
        likeliest = logits.argmax(-1) == tokens
        if theirs is None or self.reference is None:
            return chosen, likeliest, chosen.new_zeros(len(chosen))
        assert self.reference.language_head is not None
        with torch.no_grad():
            target = self.reference.language_head.logits(theirs)
        known = min(logits.shape[1], target.shape[1])  # rows beyond the vocabulary pad one of them
        own = logprobs if known == logits.shape[1] else logits[:, :known].log_softmax(-1)
        divergence = kl_div(own, target[:, :known].log_softmax(-1), reduction="none", log_target=True).sum(-1)
        return chosen, likeliest, divergence


def load(
    settings: PolicySettings, *, seed: int = 0, device: str = "cpu", trust_remote_code: bool = False
) -> Loaded:
    """A policy from a folder, with fresh adapters where they are set and the folder holds none.

    Raises:
        ModelError: it cannot be read, or is no causal LM.
    """
    path = str(settings.path)
    causal, tokenizer, base = read_causal(
        path, getattr(torch, settings.dtype), trust_remote_code=trust_remote_code
    )
    template = "none"
    if settings.chat_template_path is not None or tokenizer.chat_template:
        template = prepare_tokenizer(tokenizer, settings.chat_template_path)
    if settings.lora is not None and not adapters.base_of(path):
        with quiet_loading():
            causal = adapters.with_new(causal, settings.lora, seed, task="CAUSAL_LM")
    model = Policy(causal)
    model.to(device)
    model.eval()
    model.examine()
    return Loaded(model, tokenizer, template, None, base, [])


def load_reference(path: str, policy: Loaded, *, trust_remote_code: bool = False) -> Policy:
    """The policy that another is compared with, on the same device.

    Raises:
        ModelError: as :func:`load`, or its tokenizer is another.
    """
    device = str(policy.model.device)
    found = load(PolicySettings(path=path), device=device, trust_remote_code=trust_remote_code)
    if found.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ModelError(f"the tokenizers of {policy.base} and its reference {path} differ")
    assert isinstance(found.model, Policy)
    return found.model


def publish(loaded: Loaded, folder: Path, stops: list[int], *, merge: bool = False) -> None:
    """Write the policy as transformers reads it: weights or adapter, tokenizer, template, generation config.

    ``stops`` are the tokens that ended what was learned, the usual one first; engines stop at all of them and
    at those declared before, and the first is the tokenizer's EOS. Padding is a token that ends nothing.
    """
    causal, inner, tokenizer = loaded.model.classifier, loaded.model.inner, loaded.tokenizer
    declared = inner.generation_config.eos_token_id
    before = declared if isinstance(declared, list) else [] if declared is None else [declared]
    if stops:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stops[0])
    ends = sorted({*stops, *before, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})
    _give_padding(loaded, {*stops, tokenizer.eos_token_id})
    if merge and hasattr(causal, "merge_and_unload"):
        causal = causal.merge_and_unload()
    config, generation = inner.config.get_text_config(), inner.generation_config
    generation.eos_token_id = config.eos_token_id = ends if len(ends) > 1 else (ends or [None])[0]
    generation.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    with replacing(folder) as building, quiet_loading():
        causal.save_pretrained(building)
        generation.save_pretrained(building)
        tokenizer.save_pretrained(building)
        for file in building.rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes them readable by their owner only


def _give_padding(loaded: Loaded, ends: set[int | None]) -> None:
    """A padding token that ends nothing, else collators that mask padding mask the stops as well."""
    tokenizer, inner = loaded.tokenizer, loaded.model.inner
    taken = {*ends, tokenizer.bos_token_id, None}
    if tokenizer.pad_token_id not in taken:
        return
    vocabulary = tokenizer.get_vocab()
    spare = (name for name in (*_PADDING, tokenizer.unk_token) if vocabulary.get(name) not in taken)
    if (name := next(spare, None)) is not None:
        tokenizer.pad_token = name
    elif inner.get_input_embeddings().num_embeddings > len(tokenizer):
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    elif loaded.model.classifier is inner:  # an adapter's base stays as it is
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        inner.resize_token_embeddings(len(tokenizer), mean_resizing=False)
