"""Reading backbones and heads from model folders, and refusing what is broken or is something else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
)
from transformers.utils import logging as transformers_logging

from holdtrue.errors import ModelError
from holdtrue.reward.imports import Imported
from holdtrue.reward.kinds import RewardKind
from holdtrue.reward.model import renew_head
from holdtrue.reward.pooled_encoder import PooledEncoder
from holdtrue.reward.pools import Pool, has_own_encoder, head_name


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from writing bars and notices to the terminal; real failures raise."""
    hub = logging.getLogger("huggingface_hub")
    level, hub_level = transformers_logging.get_verbosity(), hub.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    hub.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft calls transformers by names that are deprecated there
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers`", UserWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()


def from_pretrained(kind: Any, path: str, **options: Any) -> Any:
    """What one of transformers' Auto classes reads from a folder or the hub.

    Raises:
        ModelError: nothing is there, or it cannot be read.
    """
    if path.startswith((".", "/", "~")) and not Path(path).exists():
        raise ModelError(f"model {path} does not exist")
    try:
        return kind.from_pretrained(None if "state_dict" in options else path, **options)
    except MemoryError:
        raise
    except Exception as error:  # a broken folder makes its readers raise anything
        if "trust_remote_code" in str(error) and not options.get("trust_remote_code"):
            raise ModelError(
                f"model {path} needs Python code that comes with it; if you trust that code, run it: "
                "--trust-remote-code"
            ) from error
        lines = [line for line in str(error).splitlines() if line.strip()]
        where = "" if Path(path).exists() else " (no such folder here, so it was looked for on the hub)"
        said = lines[0][:300] if lines else repr(error)
        raise ModelError(f"model {path} cannot be loaded{where}: {said}") from error


def load_classifier(
    base: str,
    config: Any,
    kind: RewardKind,
    pool: Pool,
    dtype: str,
    *,
    seed: int,
    trust: bool,
    trained: bool,
    imported: Imported | None = None,
) -> tuple[Any, list[str]]:
    """A backbone with its head, and the modules that were not in the folder and were drawn from the seed.

    For ``mean`` and ``max`` the head is read from the folder where it is ``trained``, that is saved by us.

    Raises:
        ModelError: the folder is broken, or its head has another number of outputs.
    """
    outputs = len(kind.labels)
    own = pool in ("last", "cls")
    saved_as_classifier = (
        own
        and imported is None
        and any("SequenceClassification" in n or n == "RewardModel" for n in config.architectures or [])
    )
    if saved_as_classifier and config.num_labels != outputs:
        raise ModelError(
            f"{base} has {config.num_labels} outputs; a {kind.name()} reward model has {outputs}"
        )
    auto: Any = AutoModelForSequenceClassification
    source: dict[str, Any] = {"num_labels": outputs}
    if not own:
        auto = AutoModelForTextEncoding if has_own_encoder(config) else AutoModel
    elif (
        imported is not None and imported.prefix
    ):  # what transformers renames, it saves by the old names again
        auto, config.num_labels = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], outputs
        source = {"config": config, "state_dict": imported.backbone(Path(base))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # transformers draws what is missing
        model, info = from_pretrained(
            auto,
            base,
            **source,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, with the shapes
            output_loading_info=True,
            trust_remote_code=trust,
        )
    for name, saved, expected in sorted(info["mismatched_keys"]):
        raise ModelError(
            f"{base}: {name} is {tuple(saved)} in the file and {tuple(expected)} by its config.json"
        )
    classifier = model if own else PooledEncoder(model, outputs, pool)
    name = head_name(classifier)
    head = classifier.get_submodule(name)
    if not isinstance(head, nn.Linear) or head.out_features != outputs:
        raise ModelError(f"{type(classifier).__name__} has no linear head {name!r} of {outputs} outputs")
    table = classifier.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise ModelError(
            f"{base} ({config.model_type}) embeds by {type(table).__name__}, not by a plain table"
        )
    missing = sorted(str(key) for key in info["missing_keys"])
    prefix = f"{classifier.base_model_prefix}." if own else ""
    lost = [key for key in missing if key.startswith(prefix) and ".pooler." not in f".{key}"]
    if lost:
        raise ModelError(f"{base} lacks weights its architecture needs: {', '.join(lost[:3])}")
    if missing and saved_as_classifier:
        raise ModelError(f"{base} calls itself a classifier but its head {missing[-1]} is not in the file")
    if saved_as_classifier and info["unexpected_keys"]:
        extra = ", ".join(sorted(map(str, info["unexpected_keys"]))[:3])
        raise ModelError(f"{base} holds weights its architecture has no place for: {extra}")
    fresh = sorted({key.rpartition(".")[0] for key in missing}) if own else [] if trained else [name]
    if imported is not None:
        imported.put_into(head, base)
        fresh = []
    elif not own and trained:
        classifier.load_head(Path(base))
    elif fresh:
        renew_head(head, seed)
    elif dtype != "float32":
        _restore_head(head, name, base)
    return classifier, fresh


def _restore_head(head: nn.Linear, name: str, folder: str) -> None:
    """The head as it was saved, in float32: loading rounded it to the backbone's type."""
    head.float()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for part, parameter in head.named_parameters():
                if f"{name}.{part}" in opened.keys():  # noqa: SIM118
                    parameter.data.copy_(opened.get_tensor(f"{name}.{part}"))
