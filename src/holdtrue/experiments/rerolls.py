"""Re-rolls: the same prompts answered again with one fix at a time, and what each fix changes.

A fix is a way of decoding, or a corrected copy of the model folder. Every variant draws row (prompt,
answer) with the same seed; what is compared is the share of degenerate answers, prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from holdtrue.doctor.forward import quiet
from holdtrue.doctor.rollouts import DEGENERATE, Examination, examine, fails
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import DataError, ModelError
from holdtrue.health import vocabulary as health
from holdtrue.intervals import normal, wilson
from holdtrue.records import Message, Messages, Rollout, as_json

if TYPE_CHECKING:
    from holdtrue.policy.decoding import Decoding


@dataclass(frozen=True)
class Variant:
    """A way to answer: which folder, how tokens are drawn, which ids end an answer beside those declared."""

    name: str
    folder: Path
    decoding: Decoding
    ends: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Rerolled:
    """A variant's answers and what was found in them."""

    variant: Variant
    examination: Examination

    @property
    def rate(self) -> float:
        """Share of degenerate answers."""
        return float(self.examination.rates[DEGENERATE]["rate"])


def reroll(
    prompts: Sequence[Messages | str],
    variants: Sequence[Variant],
    *,
    group: int,
    seed: int,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Rerolled]:
    """Answer every prompt ``group`` times with each variant.

    Raises:
        ModelError: a folder holds no causal language model, or conversations meet a model without a template.
        DataError: no prompts.
    """
    from holdtrue.policy.sampler import SharedPrefixSampler  # loads torch

    if not prompts:
        raise DataError("no prompts to answer")
    result = []
    for variant in variants:
        progress(variant.name)
        model, tokenizer = _load(variant.folder)
        known = health.Vocabulary.of(tokenizer, sorted(variant.ends))
        sampler = SharedPrefixSampler(known, variant.decoding)
        samples = sampler.sample(model, [_ids(prompt, tokenizer) for prompt in prompts], group, seed)
        words = Vocabulary.of(variant.folder)
        rollouts = [
            Rollout(
                prompts[row // group],
                words.decode(ids.tolist()),
                completion_ids=ids.tolist(),
                logprobs=samples.logprobs[row].tolist(),
                finish=samples.finish[row],
                policy=variant.name,
            )
            for row, ids in enumerate(samples.completion_ids)
        ]
        result.append(Rerolled(variant, examine(rollouts, words)))
    return result


def compare(base: Rerolled, other: Rerolled) -> dict[str, Any]:
    """The change of the share of degenerate answers, paired by prompt.

    difference = mean over prompts of (share of its answers that fail, other less base); its 95 % interval
    is normal over prompts. ``mended`` and ``broken`` count rows (McNemar's discordant pairs).
    """
    pairs = list(zip(base.examination.rows, other.examination.rows, strict=True))
    before = [fails(row, DEGENERATE) for row, _ in pairs]
    after = [fails(row, DEGENERATE) for _, row in pairs]
    by_prompt: dict[str, list[int]] = {}
    for (row, _), was, now in zip(pairs, before, after, strict=True):
        by_prompt.setdefault(row.rollout.prompt_key, []).append(int(now) - int(was))
    differences = [fmean(values) for values in by_prompt.values()]
    mended = sum(was and not now for was, now in zip(before, after, strict=True))
    broken = sum(now and not was for was, now in zip(before, after, strict=True))
    return {
        "variant": other.variant.name,
        "answers": len(after),
        "degenerate": sum(after),
        "rate": other.rate,
        "interval": [*wilson(sum(after), len(after))],
        "tokens": fmean(len(row.rollout.completion_ids or ()) for row in other.examination.rows),
        "difference": fmean(differences),
        "difference_interval": [*normal(differences)],
        "mended": mended,
        "broken": broken,
        "by_detector": {name: one["count"] for name, one in other.examination.rates.items()},
    }


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder} holds no causal language model with a tokenizer: {reason}") from error


def _ids(prompt: Messages | str, tokenizer: Any) -> list[int]:
    if isinstance(prompt, str) and not tokenizer.chat_template:
        return list(tokenizer(prompt)["input_ids"])
    turns = as_json((Message("user", prompt),) if isinstance(prompt, str) else prompt)
    if not tokenizer.chat_template:
        raise ModelError("the prompts are conversations and the model has no chat template")
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
