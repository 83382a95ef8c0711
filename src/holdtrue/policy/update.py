"""Learning from a step's answers: log-probabilities and gradients, pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.algorithms import Algorithm
from holdtrue.policy.critic import Critic
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.inputs import LossInputs, Mean, Scored
from holdtrue.policy.logprobs import logprobs_and_entropy, token_logprobs
from holdtrue.policy.samples import PaddedSamples
from holdtrue.policy.settings import OptimisationSettings
from holdtrue.training.distributed import ALONE, World


@dataclass(frozen=True)
class Drawing:
    """What a token is drawn from, for every forward of a run; ``banned`` (B,) ids."""

    decoding: Decoding
    banned: Tensor

    @classmethod
    def of(cls, model: Any, vocabulary: Vocabulary, decoding: Decoding) -> Drawing:
        """With what this model must not draw: its phantom ids are its own."""
        banned = vocabulary.banned(model.config.get_text_config().vocab_size)
        banned = banned if decoding.control == "ban" else banned[:0]
        return cls(decoding, torch.from_numpy(banned).to(model.device))


def passes(padded: PaddedSamples, rows: Tensor, most: int) -> Iterator[tuple[Tensor, PaddedSamples]]:
    """Rows (R,) in passes of ``most``, those of like length together, less padding that all of them have."""
    if not len(rows):
        return  # of several processes one may have nothing to do
    lengths = padded.attention_NT.sum(1)
    for places in torch.split(rows[lengths[rows].argsort(stable=True)], most):
        width = int(lengths[places].max())
        yield (
            places,
            PaddedSamples(
                padded.ids_NT[places, :width],
                padded.attention_NT[places, :width],
                padded.completion_NT[places, :width],
                padded.logprobs_NT[places, :width],
            ),
        )


@torch.no_grad()
def of_all(
    compute: Callable[[PaddedSamples], Tensor],
    padded: PaddedSamples,
    rows_per_pass: int,
    world: World = ALONE,
) -> Tensor:
    """(N, T) what ``compute`` gives of some answers' tokens, of all answers, without a gradient."""
    found = torch.zeros_like(padded.logprobs_NT)
    every = torch.arange(len(found), device=found.device)
    for places, part in passes(padded, every[world.part(len(every))], rows_per_pass):
        values = compute(part)
        found[places, : values.shape[1]] = values
    return world.sum_tensor(found)


def logprobs_of(
    policy: Any, padded: PaddedSamples, drawing: Drawing, rows_per_pass: int, world: World = ALONE
) -> Tensor:
    """(N, T) log-probabilities of all answers' tokens, 0 elsewhere."""
    decoding, banned = drawing.decoding, drawing.banned
    return of_all(lambda part: token_logprobs(policy, part, decoding, banned), padded, rows_per_pass, world)


def adamw(
    parts: Iterable[tuple[Sequence[nn.Parameter], float]], settings: OptimisationSettings
) -> torch.optim.AdamW:
    """AdamW of parts, each with the factor of its rate; matrices decay, vectors do not."""
    groups = []
    for parameters, factor in parts:
        matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups += [
            {"params": matrices, "weight_decay": settings.weight_decay, "factor": factor},
            {"params": vectors, "weight_decay": 0.0, "factor": factor},
        ]
    return torch.optim.AdamW(groups, betas=(settings.adam_beta1, settings.adam_beta2), fused=True)


@dataclass(frozen=True)
class Learnt:
    """What one pass over a step's answers gave beside gradients.

    Attributes:
        loss: Σ weight·term and Σ weight, which the gradients are still to be divided by.
        metrics: the algorithm's means.
        logprobs: (N, T) of the policy as it was before the update; 0 in rows that do not count.
    """

    loss: Mean
    metrics: dict[str, Mean]
    logprobs: Tensor


def add_gradients(
    policy: Any,
    algorithm: Algorithm,
    scored: Scored,
    advantages: Tensor,
    padded: PaddedSamples,
    drawing: Drawing,
    rows_per_pass: int,
    *,
    critic: Critic | None = None,
    returns: Tensor | None = None,
    world: World = ALONE,
) -> Learnt:
    """Add the gradient of Σ weight·term over the answers that count to the policy's and critic's parameters.

    No way to cut the step into passes changes the sum, but for rounding. Of several processes each adds the
    gradient of its part of the answers, while what is returned is that of all.
    """
    zero = padded.logprobs_NT.new_zeros(())
    learnt = Learnt(Mean(zero, zero), {}, torch.zeros_like(padded.logprobs_NT))
    counted = scored.counted
    counting = scored.keep.nonzero()[:, 0]
    for places, part in passes(padded, counting[world.part(len(counting))], rows_per_pass):
        width = part.ids_NT.shape[1]
        entropy = None
        if "entropy" in algorithm.needs:
            logprobs, entropy = logprobs_and_entropy(policy, part, drawing.decoding, drawing.banned)
        else:
            logprobs = token_logprobs(policy, part, drawing.decoding, drawing.banned)
        known = (scored.reference_logprobs, scored.old_values, returns)
        reference, old_values, wanted = (None if v is None else v[places, :width] for v in known)
        out = algorithm.loss(
            LossInputs(
                logprobs=logprobs,
                old_logprobs=part.logprobs_NT,
                mask=counted[places, :width],
                advantages=advantages[places] if advantages.ndim == 1 else advantages[places, :width],
                max_new_tokens=drawing.decoding.max_new_tokens,
                kl_coef=scored.kl_coef,
                reference_logprobs=reference,
                values=None if critic is None else critic(part),
                old_values=old_values,
                returns=wanted,
                entropy=entropy,
            )
        )
        out.loss.total.backward()  # type: ignore[no-untyped-call]
        learnt.logprobs[places, :width] = logprobs.detach()
        added = Mean(out.loss.total.detach(), out.loss.weight.detach())
        metrics = {
            name: learnt.metrics[name] + mean if name in learnt.metrics else mean
            for name, mean in out.metrics.items()
        }
        learnt = replace(learnt, loss=learnt.loss + added, metrics=metrics)
    return learnt if world.size == 1 else _of_all_processes(learnt, world)


def _of_all_processes(learnt: Learnt, world: World) -> Learnt:
    own = {"loss": learnt.loss, **learnt.metrics}
    sums: dict[str, Mean] = {}
    for part in world.gather({name: (float(m.total), float(m.weight)) for name, m in own.items()}):
        for name, (total, weight) in part.items():
            mean = Mean(torch.tensor(total), torch.tensor(weight))
            sums[name] = sums[name] + mean if name in sums else mean
    return Learnt(sums.pop("loss"), sums, world.sum_tensor(learnt.logprobs))
