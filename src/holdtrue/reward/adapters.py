"""Low-rank adapters (peft) on a model: fresh ones, saved ones, and those that other tools saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from holdtrue.errors import ModelError
from holdtrue.reward import imports
from holdtrue.settings import LoraSettings


def base_of(path: str) -> str | None:
    """The model a folder's adapter belongs to; ``None`` where the folder holds no adapter.

    Raises:
        ModelError: the adapter is broken.
    """
    file = Path(path) / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is not an adapter's configuration: {error}") from error
    if not isinstance(base, str):
        raise ModelError(f"{file} does not say which model the adapter belongs to")
    if not (file.parent / "adapter_model.safetensors").is_file():
        raise ModelError(f"{path} holds no adapter_model.safetensors; other weight formats are not read")
    return base


def with_new(
    model: Any, lora: LoraSettings, seed: int, heads: Sequence[str] = (), task: str = "SEQ_CLS"
) -> Any:
    """The model with fresh adapters; the modules ``heads`` are trained and saved in full.

    Raises:
        ModelError: its modules take no adapter.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType[task],
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        modules_to_save=list(heads) or None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"LoRA cannot be applied: {str(error).splitlines()[0][:300]}") from error


def with_saved(classifier: Any, path: str) -> Any:
    """The classifier with a folder's adapters and head.

    Raises:
        ModelError: they cannot be read or do not fit.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(classifier, path, is_trainable=True)
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"adapter {path} cannot be loaded: {str(error).splitlines()[0][:300]}") from error


def with_foreign(classifier: Any, path: str, head: imports.Imported) -> Any:
    """The adapter of a causal LM merged into the backbone, and the head saved beside it."""
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(path)
        config.task_type = None  # a causal LM is asked for its generation
        merged = PeftModel.from_pretrained(classifier, path, config=config).merge_and_unload()
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"adapter {path} cannot be loaded: {str(error).splitlines()[0][:300]}") from error
    head.put_into(merged.score, path)
    return merged
