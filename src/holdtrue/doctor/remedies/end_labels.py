"""An end token that is learned, and a padding token that is another."""

from __future__ import annotations

from pydantic import model_validator

from holdtrue.doctor.remedies import TrainingRemedy
from holdtrue.errors import SettingsError


class EndLabels(TrainingRemedy):
    """The token that ends the template's turns is EOS and is learned; padding is another token.

    ``doctor check`` names both (T01, T02), ``doctor fix`` writes them.
    """

    grade = "A"
    evidence = (
        "pad == eos masked by id trains 0 of 200 ends, and all 200 with another pad; reported in 7 projects"
    )
    source = (
        "huggingface/trl#1623, #2059; mlabonne/llm-course#33; unslothai/unsloth#416; "
        "hiyouga/LlamaFactory#5561"
    )
    mends = frozenset({"turn_end_not_learned"})
    harms = "the same token for both: the end would be masked with the padding"

    eos_token: str | None = None
    """As the template ends a turn, such as ``<|im_end|>``."""
    pad_token: str | None = None
    """Any other token that no answer holds, such as ``<|endoftext|>``."""

    @model_validator(mode="after")
    def _differ(self) -> EndLabels:
        if self.eos_token is not None and self.eos_token == self.pad_token:
            raise ValueError(f"padding and end are both {self.eos_token!r}: the end would be masked with it")
        return self

    def engines(self) -> dict[str, dict[str, object]]:
        """TRL's SFTConfig; elsewhere it is the tokenizer's files that must say it."""
        if self.eos_token is None or self.pad_token is None:
            raise SettingsError(
                "end_labels needs eos_token and pad_token; holdtrue doctor check names them (T01, T02)"
            )
        return {"trl": {"eos_token": self.eos_token, "pad_token": self.pad_token}}
