"""Proof that a saved model's number can be trusted: the ways reward models silently go wrong, each a check.

Every check measures; its status is ``ok``, ``warn``, ``fail`` or ``skip`` (with why). Rewards are compared
relative to their spread over the sample, since only differences mean something.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from holdtrue.errors import ModelError
from holdtrue.reward import elsewhere, store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.checks import Check, Status, check_card, compare, sample
from holdtrue.reward.model import LAYOUTS, initial_head
from holdtrue.reward.verify_comparer import verify_comparer
from holdtrue.rundir import read_json
from holdtrue.settings import ModelSettings
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.sentences import SentenceEncoder
from holdtrue.tokens.tree import Tree, grow


def verify(
    folder: Path,
    *,
    seed: int | None = None,
    trust_remote_code: bool = False,
) -> list[Check]:
    """All checks on a model folder; ``seed`` is the training run's, to recognise a head that never moved.

    Raises:
        ModelError: the model cannot be loaded at all.
    """
    loaded = store.load(ModelSettings(path=str(folder)), trust_remote_code=trust_remote_code)
    encoder = loaded.encoder()
    if not isinstance(encoder, Encoder):
        return verify_comparer(folder, loaded, encoder, trust_remote_code)
    # others read an adapter's padding token in the configuration of its base
    raw_config = _raw(folder, "config.json") or _raw(Path(loaded.base), "config.json")
    encoded = list(encoder.encode(sample()))
    usable = [
        grow([ids], marks=item.marks[k : k + 1])
        for item in encoded
        for k, ids in enumerate(item.ids)
        if ids is not None
    ]
    if len(usable) < 2:
        reason = next((reason for item in encoded for reason in item.reasons if reason), "there are too few")
        raise ModelError(f"no sample conversations to score (max_length {encoder.max_length}): {reason}")
    checks = [*_head(folder, loaded, seed)]
    if isinstance(encoder, SentenceEncoder):
        checks += [_special_tokens(encoder, usable), _padding(loaded, raw_config, special(encoder))]
    else:
        checks += [_read_token(loaded, usable), _padding(loaded, raw_config, {_most_common(usable)})]
        checks.append(_beginning(encoder.repaired["doubled BOS removed"]))
    alone = np.concatenate([_score(loaded, [one], "right") for one in usable])
    broken = int((~np.isfinite(alone)).sum())
    if broken:
        checks.append(Check("finite", "fail", f"{broken} of {len(alone)} rewards are not finite"))
    else:
        checks += _numbers(loaded, usable, alone)
        checks.append(_reloaded(loaded, usable, trust_remote_code))
        checks.append(_elsewhere(folder, loaded, usable, trust_remote_code))
    checks += check_card(folder, loaded)
    return checks


def _raw(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    loaded = read_json(path)
    return loaded if isinstance(loaded, dict) else {}


def _head(folder: Path, loaded: store.Loaded, seed: int | None) -> Iterator[Check]:
    names = {key for file in folder.glob("*.safetensors") for key in _keys(file)}
    where = loaded.model.head_name.replace(".modules_to_save.default", "")
    weight = next(iter(loaded.model.head_weights.values())).detach().float().cpu()
    if (folder / "adapter_config.json").is_file() and not any(f".{where}." in name for name in names):
        yield Check(
            "head saved", "fail", f"the adapter holds no {where!r} weights: rewards use a random head"
        )
    elif loaded.imported is not None:
        yield Check("head saved", "ok", loaded.imported.described)
    elif loaded.fresh_head:
        lost = f"the folder holds no head '{where}.weight': rewards would be random"
        yield Check("head saved", "fail", lost)
    else:
        yield Check("head saved", "ok", f"{where}.weight {tuple(weight.shape)} is in the file")
    if loaded.imported is not None and loaded.imported.bias:
        text = f"its bias {loaded.imported.bias:.4g} is left out, which shifts all rewards equally"
        yield Check("head bias", "warn", text)
    if not weight.any():
        yield Check("head trained", "fail", "all head weights are 0: every reward is equal")
    elif seed is not None:
        moved = (weight - initial_head(weight.shape[0], weight.shape[1], seed)).norm() / weight.norm()
        status: Status = "ok" if moved > 1e-6 else "fail"
        yield Check("head trained", status, f"moved by {float(moved):.1e} of its length since initialisation")


def _keys(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def _most_common(usable: Sequence[Tree]) -> int:
    last = [int(one.answers[0][-1]) for one in usable]
    return max(set(last), key=last.count)


def _read_token(loaded: store.Loaded, usable: Sequence[Tree]) -> Check:
    common = _most_common(usable)
    text = loaded.tokenizer.convert_ids_to_tokens(common)
    share = sum(int(one.answers[0][-1]) == common for one in usable) / len(usable)
    if share == 1:
        return Check("read token", "ok", f"always the last real token, {text!r} (id {common})")
    return Check(
        "read token",
        "fail",
        f"differs with the answer ({share:.0%} {text!r}): no EOS or end of turn is read",
    )


def special(encoder: SentenceEncoder) -> set[int]:
    """Ids of the special tokens an encoder's texts stand between."""
    return {int(token) for mark in encoder.marks for token in mark}


def _special_tokens(encoder: SentenceEncoder, usable: Sequence[Tree]) -> Check:
    names = " ".join(
        text
        for mark, text in zip(
            encoder.marks, ["prompt", "answer", ""] if encoder.input == "pair" else ["text", ""], strict=True
        )
        for text in [*encoder.tokenizer.convert_ids_to_tokens(mark.tolist()), text]
    ).strip()
    expected = sum(map(len, encoder.marks))
    found = {int(np.isin(one.answers[0], list(special(encoder))).sum()) for one in usable}
    if not expected:
        return Check("special tokens", "warn", "the tokenizer sets none: nothing marks beginning and end")
    if found == {expected}:
        return Check("special tokens", "ok", f"each once: {names}")
    return Check(
        "special tokens", "fail", f"{min(found)} to {max(found)} in a text, expected {expected}: {names}"
    )


def _padding(loaded: store.Loaded, config: dict[str, Any], read: set[int]) -> Check:
    name = "padding token"
    pad = config.get("pad_token_id", loaded.tokenizer.pad_token_id)
    known = loaded.model.inner.get_input_embeddings().num_embeddings
    if pad is None or not 0 <= pad < known:
        named = "none" if pad is None else f"{pad}, which is no token"
        return Check(name, "warn", f"config.json names {named}: others can only score one text at a time")
    if pad in read:
        text = loaded.tokenizer.convert_ids_to_tokens(pad)
        return Check(name, "fail", f"{text!r} is both padding and the token read: others read the one before")
    if pad == loaded.tokenizer.eos_token_id:
        return Check(name, "warn", "equals EOS; texts that end in EOS are read one token early elsewhere")
    return Check(name, "ok", f"id {pad}, not EOS")


def _beginning(doubled: int) -> Check:
    if doubled:
        text = "the template doubles BOS: removed here, but others read both"
        return Check("beginning", "warn", text)
    return Check("beginning", "ok", "at most one BOS")


def _score(loaded: store.Loaded, usable: Sequence[Tree], side: str | None = None) -> np.ndarray:
    """Rewards with all conversations in one pass; ``side`` forces a padded batch."""
    model = loaded.model
    layout = model.layout
    try:
        if side is not None:
            model.layout = "padded"
        with torch.inference_mode():
            rewards = model(model.batch(usable, side or "right")).rewards
    finally:
        model.layout = layout
    return np.asarray(rewards.cpu().double().numpy())


def _numbers(loaded: store.Loaded, usable: Sequence[Tree], alone: np.ndarray) -> Iterator[Check]:
    spread = float(alone.std()) or 1.0
    if alone.std() < 1e-6:
        yield Check("spread", "fail", "all sample rewards are equal")
    layout = LAYOUTS.get(loaded.model.layout, f"padding ({loaded.model.layout_reason})")
    yield compare(f"alone = in a batch ({layout})", alone, _score(loaded, usable), spread)
    yield compare("alone = right padding", alone, _score(loaded, usable, "right"), spread)
    if loaded.model.pool == "last":  # encoders count positions from the left of the batch
        yield compare("alone = left padding", alone, _score(loaded, usable, "left"), spread)
    before = loaded.model.bf16
    loaded.model.bf16 = True
    try:
        low = np.concatenate([_score(loaded, [one]) for one in usable])
    finally:
        loaded.model.bf16 = before
    error = float(np.abs(low - alone).max()) / spread
    ties = len(alone) - len(set(low.tolist()))
    text = f"largest difference {error:.1e} of the spread, {ties} ties"
    yield Check("bf16 = fp32", "ok" if error < 0.1 else "warn", text)


def _reloaded(loaded: store.Loaded, usable: Sequence[Tree], trust_remote_code: bool) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        store.save(replace(loaded), Path(folder) / "model", RewardCard())
        again = store.load(
            ModelSettings(path=str(Path(folder) / "model")), trust_remote_code=trust_remote_code
        )
        difference = float(np.abs(_score(loaded, usable) - _score(again, usable)).max())
    return Check(
        "saved = reloaded", "ok" if difference == 0 else "fail", f"largest difference {difference:.1e}"
    )


def _elsewhere(folder: Path, loaded: store.Loaded, usable: Sequence[Tree], trust: bool) -> Check:
    """Rewards as others compute them from the folder; they know nothing of a gate, so ours are without it."""
    name = f"ours = {elsewhere.name(loaded)}"
    reason = elsewhere.unreadable(folder, loaded)
    if reason is not None:
        return Check(name, "skip", reason)
    try:
        theirs = elsewhere.rewards(folder, loaded, usable, trust)
    except Exception as error:  # whatever they raise, others cannot use the folder
        return Check(name, "fail", f"others cannot use it: {str(error).splitlines()[0][:200]}")
    gate, loaded.model.gate = loaded.model.gate, None
    ours = np.concatenate([_score(loaded, [one]) for one in usable])
    loaded.model.gate = gate
    return compare(name, ours, theirs, float(ours.std()) or 1.0)
