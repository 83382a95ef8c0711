"""The class that AutoTokenizer takes for a folder, without AutoTokenizer where the folder's files decide it.

AutoTokenizer reads the config with classes that import torch: some seconds and hundreds of megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
"""Names of the class that takes tokenizer.json as it is; the first is that of transformers before 5."""
OWN = (None, "llama", "deepseek_v2", "deepseek_v3", "smollm3")
"""``model_type`` (None: no config.json) of models for which transformers has no tokenizer of its own, so that
the class the folder names is taken."""
BACKED = ("mistral", "mixtral", "phi3", "granite", "olmo2", "olmo3", "glm4", "glm4_moe")
"""``model_type`` of models for which it takes tokenizer.json as it is, whatever generic class is named."""

SHARED = {
    "Qwen2Tokenizer": ("qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl"),
    "GemmaTokenizer": ("gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text"),
}
"""Classes with the ``model_type`` of models that take them, besides the one they are named after."""


def tokenizer_class(folder: Path) -> Any:
    """A class of transformers with ``from_pretrained``; AutoTokenizer itself where it would have to look."""
    import transformers

    given, config = _read(folder / "tokenizer_config.json"), _read(folder / "config.json")
    path = folder / "tokenizer.json"
    # Code that comes with a tokenizer is AutoTokenizer's to judge.
    if given is None or "auto_map" in given or not path.is_file():
        return transformers.AutoTokenizer
    # Fast is the old spelling of the same class.
    named = str(given.get("tokenizer_class") or "").removesuffix("Fast")
    model_type = None if config is None else config.get("model_type", "")
    if named in (*GENERIC, "LlamaTokenizer"):
        if model_type in BACKED and not (folder / "tekken.json").is_file():  # which mistral-common reads
            return transformers.TokenizersBackend
        if model_type not in OWN:
            return transformers.AutoTokenizer
        # Llama 3 names the class of Llama 2, which would split its bytes otherwise.
        as_it_is = named in GENERIC or '"ByteLevel"' in path.read_text(encoding="utf-8", errors="replace")
        return transformers.TokenizersBackend if as_it_is else transformers.LlamaTokenizer
    found = getattr(transformers, named, None)
    own = f"transformers.models.{model_type}." if model_type is not None else "transformers.models."
    is_own = model_type in SHARED.get(named, ()) or getattr(found, "__module__", "").startswith(own)
    return found if is_own else transformers.AutoTokenizer


def _read(path: Path) -> Mapping[str, Any] | None:
    """A JSON object; None where there is no file, or one that holds anything else."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
