"""What a folder scores with: a reward model, an ensemble, or a policy against its reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from holdtrue.reward import gate, implicit, members, store, verify
from holdtrue.reward.card import read_card
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.ensemble import Ensemble, EnsembleScorer
from holdtrue.reward.kinds import ComparingKind
from holdtrue.reward.scorer import RewardScorer, StreamingScorer
from holdtrue.rundir import read_json


@dataclass(frozen=True)
class Opened:
    """A folder ready to score.

    Attributes:
        plain_text: what plain strings are taken for.
        identity: hash of all weights it scores with.
    """

    scorer: StreamingScorer
    plain_text: Literal["chat", "raw"]
    identity: str


def open_scorer(
    folder: Path, *, device: str = "cpu", bf16: bool = False, trust_remote_code: bool = False
) -> Opened:
    """The scorer of a folder; an ensemble holds all of its members at once, a base they share once.

    Raises:
        ModelError: it or a member cannot be loaded, is not trained, or changed since it was named.
    """
    identity = members.identity(folder)[:16]
    if (folder / members.ENSEMBLE).is_file():
        ensemble = members.read(Ensemble, folder / members.ENSEMBLE)
        paths = [member.folder(folder) for member in ensemble.members]
        options: dict[str, Any] = {"device": device, "bf16": bf16, "trust_remote_code": trust_remote_code}
        scorers: list[StreamingScorer] = [*_on_one_base(paths, **options)]
        scorers = scorers or [open_scorer(path, **options).scorer for path in paths]
        return Opened(EnsembleScorer(ensemble, scorers), plain_text(folder), identity)
    if (folder / members.IMPLICIT).is_file():
        scorer = implicit.load(folder, device=device, bf16=bf16, trust_remote_code=trust_remote_code)
        return Opened(scorer, "chat", identity)
    loaded = store.load_trained(folder, device=device, trust_remote_code=trust_remote_code)
    loaded.model.bf16 = bf16
    return Opened(RewardScorer(loaded), plain_text(folder), identity)


def compares(folder: Path) -> bool:
    """Whether rewards are made of comparisons, so that an answer's depends on those beside it."""
    if (folder / members.ENSEMBLE).is_file():
        ensemble = members.read(Ensemble, folder / members.ENSEMBLE)
        return compares(Path(ensemble.members[0].path))
    card = read_card(folder)
    return card is not None and isinstance(card.made_by, ComparingKind)


def _on_one_base(
    paths: Sequence[Path], *, device: str, bf16: bool, trust_remote_code: bool
) -> list[RewardScorer]:
    """Scorers of adapters on one model in memory; none where the paths are anything else than such.

    Only decoders without a gate share one: a gate, a pool and an encoder's head are of one member alone.
    """
    cards = [read_card(path) for path in paths]
    alike = set()
    for path, card in zip(paths, cards, strict=True):
        if card is None or compares(path) or not (path / "adapter_config.json").is_file():
            return []
        if card.pool != "last" or (path / gate.NAME).is_file():
            return []
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        alike.add(json.dumps([base, card.kind, card.template], sort_keys=True))
    if len(alike) > 1:
        return []
    first = store.load_trained(paths[0], device=device, trust_remote_code=trust_remote_code)
    model = first.model
    model.bf16 = bf16
    names = [model.classifier.active_adapter, *(f"member_{n}" for n in range(2, len(paths) + 1))]
    with quiet_loading():
        for path, name in zip(paths[1:], names[1:], strict=True):
            model.classifier.load_adapter(str(path), adapter_name=name)
    model.to(device)
    model.eval()
    return [
        RewardScorer(replace(first, card=card), adapter=name) for card, name in zip(cards, names, strict=True)
    ]


def plain_text(folder: Path) -> Literal["chat", "raw"]:
    """What a folder takes plain strings for; an ensemble as its first member, since all must agree."""
    if (folder / members.ENSEMBLE).is_file():
        ensemble = members.read(Ensemble, folder / members.ENSEMBLE)
        return plain_text(Path(ensemble.members[0].path))
    card = read_card(folder)
    return card.plain_text if card else "chat"


def scale_in_card(folder: Path) -> dict[str, float] | None:
    """Mean and std of a model's rewards on its reference set: from its card, or OpenRLHF's config.json."""
    card = read_card(folder)
    file = folder / "config.json"
    source = card.reward if card else read_json(file) if file.is_file() else {}
    found = {key: source.get(key) for key in ("mean", "std")}
    scale = {key: float(value) for key, value in found.items() if isinstance(value, (int, float))}
    return scale if len(scale) == 2 and scale["std"] > 0 else None


def verify_folder(
    folder: Path, *, seed: int | None = None, trust_remote_code: bool = False
) -> Sequence[verify.Check]:
    """All checks on a folder; on each of an ensemble's members in turn, by their number.

    Raises:
        ModelError: as :func:`open_scorer`.
    """
    if (folder / members.IMPLICIT).is_file():
        return implicit.check(folder, trust_remote_code=trust_remote_code)
    if not (folder / members.ENSEMBLE).is_file():
        return verify.verify(folder, seed=seed, trust_remote_code=trust_remote_code)
    ensemble = members.read(Ensemble, folder / members.ENSEMBLE)
    folders = [member.folder(folder) for member in ensemble.members]
    said = f"{len(folders)}, their weights as when they were named"
    checks = [verify.Check("members", "ok", said)]
    for number, member in enumerate(folders, start=1):
        found = verify_folder(member, trust_remote_code=trust_remote_code)
        checks += [replace(check, name=f"{number}: {check.name}") for check in found]
    return checks
