"""Proof that a model which compares answers can be trusted: its checks of :mod:`holdtrue.reward.verify`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdtrue.errors import ModelError
from holdtrue.records import Group
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.checks import Check, check_card, compare, sample
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.comparer import Floats, PairComparer
from holdtrue.reward.preference_lm import PreferenceModel
from holdtrue.settings import ModelSettings
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.joint import JointEncoder


def verify_comparer(
    folder: Path, loaded: store.Loaded, encoder: JointEncoder, trust_remote_code: bool
) -> list[Check]:
    """All checks of a loaded model that compares.

    Raises:
        ModelError: no sample comparison fits.
    """
    groups = sample()
    ones = PairComparer(loaded, encoder, max_tokens_per_pass=1)  # every sequence by itself
    shown = ones.show(groups)
    usable = [group for group, item in zip(groups, shown, strict=True) if not item.reasons]
    unfit = {reason for item in shown for reason in item.reasons.values()}
    if not usable and unfit != {"gap is not finite"}:
        reason = min(unfit)
        raise ModelError(f"no sample comparison to judge (max_length {encoder.max_length}): {reason}")
    checks = list(_head(loaded))
    broken = sum(reason == "gap is not finite" for item in shown for reason in item.reasons.values())
    if broken:
        checks.append(Check("finite", "fail", f"{broken} gaps of {2 * len(groups)} are not finite"))
    else:
        checks.append(Check("finite", "ok", f"{2 * len(usable)} gaps of {len(usable)} comparisons"))
        checks += _numbers(loaded, encoder, usable, _logits(ones, usable))
        checks.append(_reloaded(loaded, usable, trust_remote_code))
        if isinstance(loaded.model, PreferenceModel):
            checks.append(_plain_transformers(folder, loaded, encoder, usable, trust_remote_code))
    return [*checks, *check_card(folder, loaded)]


def _head(loaded: store.Loaded) -> Iterator[Check]:
    if loaded.fresh_head:
        yield Check("trained", "fail", "no reward card says that it was trained to compare")
    if isinstance(loaded.model, PreferenceModel):
        ids = zip(loaded.model.kind.labels, loaded.model.tokens.tolist(), strict=True)
        said = ", ".join(f"{text!r} (id {token})" for text, token in ids)
        yield Check("replies", "ok", f"single tokens: {said}")


def _logits(comparer: PairComparer, groups: list[Group]) -> Floats:
    """z of every group's comparison in both orders."""
    values: Floats = np.array([item.logits[[0, 1], [1, 0]] for item in comparer.show(groups)]).ravel()
    return values


def _numbers(
    loaded: store.Loaded, encoder: JointEncoder, groups: list[Group], alone: Floats
) -> Iterator[Check]:
    spread = float(alone.std()) or 1.0
    model = loaded.model
    if alone.std() < 1e-6:
        yield Check("spread", "fail", "all sample gaps are equal")
    layout = "token trees" if model.layout == "tree" else f"padding ({model.layout_reason})"
    together = _logits(PairComparer(loaded, encoder), groups)
    yield compare(f"alone = in a batch ({layout})", alone, together, spread)
    ones = PairComparer(loaded, encoder, max_tokens_per_pass=1)
    swapped = [replace(group, answers=group.answers[::-1]) for group in groups]
    gaps, others = ([item.gaps[0, 1] for item in ones.show(own)] for own in (groups, swapped))
    worst = float(np.abs(np.add(gaps, others)).max())
    yield Check(
        "symmetric in the order", "ok" if worst == 0 else "fail", f"largest gap + swapped gap {worst:.1e}"
    )
    same = np.mean(np.sign(alone[::2]) == np.sign(-alone[1::2]))
    yield Check("place", "ok", f"{same:.0%} of the samples have the same winner in both orders")
    before = model.bf16
    model.bf16 = True
    try:
        error = float(np.abs(_logits(ones, groups) - alone).max()) / spread
    finally:
        model.bf16 = before
    text = f"largest difference {error:.1e} of the spread"
    yield Check("bf16 = fp32", "ok" if error < 0.1 else "warn", text)


def _reloaded(loaded: store.Loaded, groups: list[Group], trust_remote_code: bool) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        store.save(replace(loaded), path, RewardCard())
        again = store.load(ModelSettings(path=str(path)), trust_remote_code=trust_remote_code)
        encoder = loaded.encoder()
        assert not isinstance(encoder, Encoder)
        one, other = (_logits(PairComparer(model, encoder), groups) for model in (loaded, again))
    difference = float(np.abs(one - other).max())
    return Check(
        "saved = reloaded", "ok" if difference == 0 else "fail", f"largest difference {difference:.1e}"
    )


def _plain_transformers(
    folder: Path, loaded: store.Loaded, encoder: JointEncoder, groups: list[Group], trust_remote_code: bool
) -> Check:
    """Gaps of the folder as others load it, one comparison at a time."""
    name = "ours = plain transformers"
    assert isinstance(loaded.model, PreferenceModel)
    decoder, tokens = loaded.model.decoder, loaded.model.tokens.cpu()
    try:
        model = _as_others_load(folder, decoder, trust_remote_code)
    except Exception as error:  # whatever they raise, others cannot use the folder
        return Check(name, "fail", f"others cannot load it: {str(error).splitlines()[0][:200]}")
    theirs = []
    for item in encoder.encode([(group, [(0, 1), (1, 0)]) for group in groups]):
        for ids in item.ids:
            assert ids is not None
            inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
            if not decoder:
                inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
            with torch.inference_mode():
                logits = model(**inputs).logits[0, -1, tokens].double()
            theirs.append(float(logits[0] - logits[1]))
    ours = _logits(PairComparer(loaded, encoder, max_tokens_per_pass=1), groups)
    return compare(name, ours, np.array(theirs), float(ours.std()) or 1.0)


def _as_others_load(folder: Path, decoder: bool, trust_remote_code: bool) -> Any:
    if (folder / "adapter_config.json").is_file():
        import peft

        adapted = peft.AutoPeftModelForCausalLM if decoder else peft.AutoPeftModelForSeq2SeqLM
        with quiet_loading():
            return adapted.from_pretrained(folder, dtype=torch.float32).eval()
    import transformers

    auto = transformers.AutoModelForCausalLM if decoder else transformers.AutoModelForSeq2SeqLM
    with quiet_loading():
        return auto.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trust_remote_code).eval()
