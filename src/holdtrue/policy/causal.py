"""The causal LM that is optimised: read from a folder, what its tokens mean, and saved again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from holdtrue.errors import ModelError, SettingsError
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.decoding import declared_ends
from holdtrue.policy.settings import PolicySettings
from holdtrue.reward import adapters
from holdtrue.reward.causal import read_causal
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.store import replacing
from holdtrue.tokens.conversation import prepare_tokenizer


def load_policy(
    settings: PolicySettings, seed: int, device: str = "cpu", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """The policy, in float32 and ready to train, and its tokenizer with a chat template.

    A saved adapter is merged into its base; fresh adapters are drawn from the seed.

    Raises:
        ModelError: it cannot be read, or is no decoder with a language head.
        SettingsError: fresh adapters on a saved one are not merged in the end.
    """
    adapted = adapters.base_of(settings.path)
    if adapted and settings.lora is not None and not settings.lora.merge:
        raise SettingsError(
            f"{settings.path} is an adapter, and fresh ones beside it could not be loaded again: set "
            "policy.lora.merge=true"
        )
    policy, tokenizer, _ = read_causal(settings.path, torch.float32, trust_remote_code=trust_remote_code)
    with quiet_loading():
        if adapted:
            policy = policy.merge_and_unload().requires_grad_(True)  # peft froze the base
        if settings.lora is not None:
            policy = adapters.with_new(policy, settings.lora, seed, task="CAUSAL_LM")
    prepare_tokenizer(tokenizer, settings.chat_template_path)
    return policy.to(device), tokenizer


def load_reference(
    settings: PolicySettings, tokenizer: Any, device: str, trust_remote_code: bool = False
) -> Any:
    """The reference that the settings name; None where they name none.

    Raises:
        ModelError: it cannot be read, or its tokens are others.
    """
    if settings.reference is None:
        return None
    found, own = load_policy(PolicySettings(path=settings.reference), 0, device, trust_remote_code)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the tokenizers of {settings.path} and its reference {settings.reference} differ; drift is "
            "measured token by token"
        )
    return found


def vocabulary_of(policy: Any, tokenizer: Any, name: str) -> Vocabulary:
    """What the ids of a policy mean, its ends among them.

    Raises:
        ModelError: neither configs nor tokenizer declare an end.
    """
    found = Vocabulary.of(tokenizer, eos=declared_ends(policy))
    if not found.eos:
        raise ModelError(
            f"policy {name} declares no end token, so no answer would end; set eos_token_id in its "
            "generation_config.json"
        )
    return found


def publish(policy: Any, tokenizer: Any, folder: Path, *, merge: bool = False) -> None:
    """Save the policy as transformers (or peft, for an adapter) loads it; the folder appears whole or not."""
    whole = policy.merge_and_unload() if merge else policy
    with replacing(folder) as building, quiet_loading():
        whole.save_pretrained(building)
        if whole.generation_config is not None:
            whole.generation_config.save_pretrained(building)
        tokenizer.save_pretrained(building)
