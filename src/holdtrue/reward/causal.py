"""The causal LM a reward model is made from, for the log-probabilities of its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from holdtrue.errors import ModelError
from holdtrue.reward import adapters, imports, pools
from holdtrue.reward.classifiers import from_pretrained, quiet_loading
from holdtrue.reward.language import language_head
from holdtrue.reward.model import RewardModel
from holdtrue.reward.store import Loaded, has_tokenizer
from holdtrue.rundir import read_json
from holdtrue.tokens.conversation import prepare_tokenizer


def keep_language_head(loaded: Loaded, *, trust_remote_code: bool = False) -> None:
    """Give the model the head of the causal LM it is made from, for losses that read ``logprobs``.

    Raises:
        ModelError: the model is made from an encoder or a classifier, which have none.
    """
    if loaded.model.pool != "last":
        raise ModelError(f"{loaded.base} is an encoder: only decoders give the likelihood of an answer")
    with quiet_loading():
        causal = _causal(loaded.base, loaded.model.inner.dtype, trust_remote_code)
    loaded.model.language_head = language_head(loaded.model.inner, causal).to(loaded.model.device)


def load_causal(path: str | Path, *, device: str = "cpu", trust_remote_code: bool = False) -> Loaded:
    """A causal LM, or an adapter on one, for its log-probabilities; it has no reward head.

    Raises:
        ModelError: as :func:`read_causal`.
    """
    causal, tokenizer, base = read_causal(str(path), torch.float32, trust_remote_code=trust_remote_code)
    template = prepare_tokenizer(tokenizer)
    model = RewardModel(causal, pad_id=0)  # what stands in the padding is never seen
    model.language_head = language_head(model.inner, model.inner)
    model.to(device)
    model.eval()
    model.examine()
    return Loaded(model, tokenizer, template, None, base, [])


def read_causal(path: str, dtype: torch.dtype, *, trust_remote_code: bool = False) -> tuple[Any, Any, str]:
    """A causal LM (with the adapter that the folder holds), its tokenizer, and the folder of its weights.

    Raises:
        ModelError: it cannot be read, or is no causal LM.
    """
    imports.refuse_unreadable(Path(path))
    adapted = adapters.base_of(path)
    base = adapted or path
    if adapted and read_json(Path(path) / "adapter_config.json").get("task_type") == "SEQ_CLS":
        raise ModelError(f"{path} is the adapter of a reward model; one of a causal LM is needed")
    with quiet_loading():
        config = from_pretrained(AutoConfig, base, trust_remote_code=trust_remote_code)
        if any("SequenceClassification" in name for name in config.architectures or []):
            raise ModelError(f"{base} is a {config.architectures[0]}; a causal LM is needed")
        if pools.is_encoder(config) and not config.is_encoder_decoder:
            raise ModelError(f"{base} is an encoder ({config.model_type}); a decoder is needed")
        if config.is_encoder_decoder:
            raise ModelError(f"{base} is an encoder-decoder ({config.model_type}); a decoder is needed")
        tokenizer = from_pretrained(
            AutoTokenizer, path if has_tokenizer(path) else base, trust_remote_code=trust_remote_code
        )
        causal = _causal(base, dtype, trust_remote_code)
        return adapters.with_saved(causal, path) if adapted else causal, tokenizer, base


def _causal(base: str, dtype: torch.dtype, trust: bool) -> Any:
    causal, info = from_pretrained(
        AutoModelForCausalLM,
        base,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=trust,
    )
    tied = causal.config.get_text_config().tie_word_embeddings
    missing = [key for key in info["missing_keys"] if not (tied and key.startswith(("lm_head", "embed_out")))]
    if missing:
        raise ModelError(f"{base} has no language head ({missing[0]}); start from the causal LM")
    return causal
