"""The reward a policy trained by DPO holds against its reference (Rafailov et al., arXiv 2305.18290, eq. 5).

    r(x, y) = β Σ_t [log π(y_t | x, y_<t) - log π_ref(y_t | x, y_<t)]          [reward units]

Over the tokens of the answer with what the chat template writes after it (end of turn, EOS). Up to a term
that depends on the prompt alone, which no comparison sees. With ``reduction: mean`` the sum is divided by the
number of those tokens. Nothing is trained; both are causal LMs, or the policy is an adapter on its reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from holdtrue.errors import ModelError
from holdtrue.records import Group
from holdtrue.reward import members
from holdtrue.reward.members import Member, Record
from holdtrue.reward.model import RewardModel
from holdtrue.reward.scorer import Owner, Scored, StreamingScorer, hand_out, plant
from holdtrue.reward.store import Loaded, load_causal
from holdtrue.reward.verify import Check, compare, sample
from holdtrue.tokens.batches import pad
from holdtrue.tokens.conversation import Encoder, Ids
from holdtrue.tokens.tree import Tree, grow

Reduction = Literal["sum", "mean"]
_TOLERANCE = 1e-3  # log-probabilities of a policy close to its reference cancel


class Implicit(Record):
    """What ``implicit.json`` holds.

    Attributes:
        reference: None where the policy is an adapter and the reference its base.
        beta: β of the DPO loss the policy was trained with; it scales all rewards alike.
        reduction: ``sum`` as in DPO, ``mean`` for policies trained on length-normalised log-ratios.
    """

    policy: Member
    reference: Member | None = None
    beta: float = Field(0.1, gt=0)
    reduction: Reduction = "sum"


@dataclass(frozen=True)
class Policies:
    """Policy and reference in memory; one model with and without its adapter where there is one folder."""

    policy: Loaded
    reference: Loaded | None

    def both(self) -> Iterator[tuple[int, RewardModel, AbstractContextManager[Any]]]:
        """Policy (+1) and reference (-1), each with the context in which it gives its log-probabilities."""
        yield 1, self.policy.model, nullcontext()
        if self.reference is not None:
            yield -1, self.reference.model, nullcontext()
        else:
            yield -1, self.policy.model, self.policy.model.classifier.disable_adapter()

    def log_ratios(self, trees: Sequence[Tree], side: str | None = None) -> Tensor:
        """(Σ leaf lengths,) float64 log π - log π_ref of each token after the trees' prompts."""
        total = torch.zeros(sum(len(answer) for tree in trees for answer in tree.answers)).double()
        for sign, model, context in self.both():
            with torch.inference_mode(), context:
                batch = model.batch(trees) if side is None else pad(trees, model.pad_id, model.device, side)
                total += sign * model.logprobs(batch).cpu().double()
        return total


class ImplicitScorer(StreamingScorer):
    """An implicit reward as a Scorer: each prompt computed once for its answers, order kept.

    Args:
        implicit: β and reduction.
        policies: the two models.
        encoder: how conversations become ids.
        max_tokens_per_pass: unique tokens in one forward pass; bounds memory only.
        chunk: groups encoded and packed together.
    """

    def __init__(
        self,
        implicit: Implicit,
        policies: Policies,
        encoder: Encoder,
        max_tokens_per_pass: int = 8192,
        chunk: int = 512,
    ) -> None:
        self.implicit = implicit
        self.policies = policies
        self.encoder = encoder
        self.max_tokens_per_pass = max_tokens_per_pass
        self.chunk = chunk

    def _score_chunk(self, groups: Sequence[Group]) -> list[Scored]:
        encoded = list(self.encoder.encode(groups))
        begins: dict[Owner, int] = {}  # where the answer begins within its conversation
        for group, item in zip(groups, encoded, strict=True):
            for k, ids in enumerate(item.ids):
                if ids is not None and (owner := (group.prompt_key, ids.tobytes())) not in begins:
                    begins[owner] = self.encoder.answer_span(group, k)[0]
        trees, owners = plant(groups, encoded, self.max_tokens_per_pass)
        trees = [
            _with_answers_from(tree, min(begins[owner] for owner in own))
            for tree, own in zip(trees, owners, strict=True)
        ]
        rewards: dict[Owner, float] = {}
        for batch in self.policies.policy.model.pack(trees, self.max_tokens_per_pass):
            planted = [trees[i] for i in batch]
            names = [owner for i in batch for owner in owners[i]]
            sequences = [len(tree.prompt) + len(answer) for tree in planted for answer in tree.answers]
            counts = [length - begins[name] for length, name in zip(sequences, names, strict=True)]
            rewards.update(zip(names, self.rewards(planted, counts), strict=True))
        return hand_out(groups, encoded, rewards)

    def rewards(self, trees: Sequence[Tree], counts: Sequence[int], side: str | None = None) -> list[float]:
        """Of each leaf, over its last ``counts`` tokens; ``side`` forces a padded batch."""
        ratios = self.policies.log_ratios(trees, side)
        lengths = [len(answer) for tree in trees for answer in tree.answers]
        tails = [part[len(part) - n :] for part, n in zip(torch.split(ratios, lengths), counts, strict=True)]
        total = [tail.sum() if self.implicit.reduction == "sum" else tail.mean() for tail in tails]
        return [self.implicit.beta * value.item() for value in total]


def _with_answers_from(tree: Tree, begin: int) -> Tree:
    """The tree with no token of an answer in its prompt, though all answers may begin with it."""
    if len(tree.prompt) <= begin:
        return tree
    rest = tree.prompt[begin:]
    answers = tuple(np.concatenate([rest, answer]) for answer in tree.answers)
    return replace(tree, prompt=tree.prompt[:begin], answers=answers)


def load(
    folder: Path, *, device: str = "cpu", bf16: bool = False, trust_remote_code: bool = False
) -> ImplicitScorer:
    """The scorer of a folder with ``implicit.json``.

    Raises:
        ModelError: a model is gone, changed or no causal LM, or the two do not read the same tokens.
    """
    made = members.read(Implicit, folder / members.IMPLICIT)
    policies = open_policies(made, folder, device=device, trust_remote_code=trust_remote_code)
    for _, model, _ in policies.both():
        model.bf16 = bf16
    encoder = policies.policy.encoder()
    assert isinstance(encoder, Encoder)
    return ImplicitScorer(made, policies, encoder)


def open_policies(
    made: Implicit, owner: Path, *, device: str = "cpu", trust_remote_code: bool = False
) -> Policies:
    """The two models that ``owner`` names.

    Raises:
        ModelError: as :func:`load`.
    """
    path = made.policy.folder(owner)
    policy = load_causal(path, device=device, trust_remote_code=trust_remote_code)
    if made.reference is None:
        if not hasattr(policy.model.classifier, "disable_adapter"):
            raise ModelError(f"{path} is a whole model: name its reference too, the model DPO started from")
        return Policies(policy, None)
    other = made.reference.folder(owner)
    reference = load_causal(other, device=device, trust_remote_code=trust_remote_code)
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise ModelError(f"the tokenizers of {path} and its reference {other} differ")
    return Policies(policy, reference)


def check(folder: Path, *, trust_remote_code: bool = False) -> list[Check]:
    """What ``verify`` finds: the log-ratios against plain transformers, in a batch and padded.

    Raises:
        ModelError: as :func:`load`, or no sample conversation fits.
    """
    scorer = load(folder, trust_remote_code=trust_remote_code)
    groups, encoder = sample(), scorer.encoder
    encoded = list(encoder.encode(groups))
    usable = [
        (ids, len(ids) - encoder.answer_span(group, k)[0])
        for group, item in zip(groups, encoded, strict=True)
        for k, ids in enumerate(item.ids)
        if ids is not None
    ]
    if len(usable) < 2:
        raise ModelError(f"{folder}: no sample conversation fits into {encoder.max_length} tokens")
    counts = [count for _, count in usable]
    trees = [grow([ids]) for ids, _ in usable]
    plain = np.array(_by_plain_transformers(scorer, usable))
    if not np.isfinite(plain).all():
        return [Check("finite", "fail", f"{(~np.isfinite(plain)).sum()} rewards are not finite")]
    spread = float(plain.std())
    if spread < 1e-9:
        return [Check("spread", "fail", "all rewards are equal: policy and reference are the same model")]
    together = np.array(scorer.rewards(trees, counts))
    alone = np.array([scorer.rewards([t], [n])[0] for t, n in zip(trees, counts, strict=True)])
    found = [
        Check("spread", "ok", f"rewards of the sample have a standard deviation of {spread:.2g}"),
        compare("ours = plain transformers", alone, plain, spread, _TOLERANCE),
        compare("alone = in a batch", alone, together, spread, _TOLERANCE),
    ]
    for side in ("right", "left"):
        padded = np.array(scorer.rewards(trees, counts, side))
        found.append(compare(f"alone = {side} padding", alone, padded, spread, _TOLERANCE))
    return found


def _by_plain_transformers(scorer: ImplicitScorer, usable: Sequence[tuple[Ids, int]]) -> list[float]:
    """The formula of this module's head, one conversation at a time, from full logits."""
    policies, found = scorer.policies, []
    for ids, count in usable:
        tokens = torch.from_numpy(ids.astype(np.int64)).to(policies.policy.model.device)
        ratio = torch.zeros(len(ids) - 1, dtype=torch.float64)
        for sign, model, context in policies.both():
            with torch.inference_mode(), context:
                logprobs = model.classifier(input_ids=tokens[None]).logits[0, :-1].double().log_softmax(-1)
            ratio += sign * logprobs.gather(1, tokens[1:, None])[:, 0].cpu()
        tail = ratio[-count:]
        value = tail.sum() if scorer.implicit.reduction == "sum" else tail.mean()
        found.append(scorer.implicit.beta * value.item())
    return found
