"""Settings of supervised fine-tuning: those of reward models where they mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from holdtrue import kinds
from holdtrue.settings import LoraSettings, Section, TrainingSettings, build_section


class PolicySettings(Section):
    """The policy."""

    path: str | None = None
    """Folder (or hub name) of a causal LM, or of an adapter on one, which is then trained further."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that frozen weights are held in; what is trained is float32 and saved as such."""
    chat_template_path: str | None = None
    """Jinja file that replaces the model's chat template."""
    lora: LoraSettings | None = None
    """Train low-rank adapters on all linear layers instead of every weight."""


class ExampleSettings(Section):
    """What is learned."""

    train: list[str] = Field([])
    """Files (JSONL, JSONL.gz, Parquet), directories, or ``hub:owner/name[:split]`` of conversations, prompts
    with completions, preference pairs (the chosen side is learned), ShareGPT or Alpaca rows, or text."""
    eval: list[str] = Field([])
    """The same, for validation while training. Without it ``eval_fraction`` of the prompts is held out."""
    eval_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of prompts held out of ``train`` (by hash of the prompt) when ``eval`` is empty."""
    turns: Literal["all", "last"] = "all"
    """Assistant turns of a conversation that are learned. Turns of a row's prompt never are."""
    plain_text: Literal["auto", "chat", "raw"] = "auto"
    """Rows of two strings: ``chat`` makes prompt and completion a user and an assistant turn; ``raw`` joins
    them as they stand, followed by EOS. ``auto``: ``chat`` where the model has a chat template."""
    max_length: int | None = Field(None, gt=1)
    """Longest example in tokens. By default what the model can take."""
    truncation: Literal["drop", "left", "right", "error"] = "drop"
    """What is done with longer ones. ``drop``: left out and counted. ``left`` takes from the prompt.
    ``right`` cuts the completion, which is then learned without its stop, and counted. Or an error."""


class SftTrainingSettings(TrainingSettings):
    """The training loop."""

    method: Literal["gradient"] = "gradient"
    """There is no other."""
    num_train_epochs: float = Field(2.0, gt=0)
    """Passes over the examples (2 in Tulu 3, arXiv 2411.15124); a fraction stops inside a pass."""
    train_batch_size: int | None = Field(None, gt=0)
    """Examples per optimiser step, over all processes together (default 16). Gradients are accumulated
    over as many forward passes as ``max_tokens_per_pass`` needs, so it does not change memory."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak rate. By default 0.08 / width of the model: 2e-5 at 4096, as Alpaca and TRL have it. Ten times
    that with LoRA (2e-4: QLoRA, arXiv 2305.14314)."""
    disable_dropout: bool = True
    """Switch off the model's dropout. With few rows and many epochs it may help to leave it on."""
    metric_for_best_model: Literal["loss", "accuracy"] = "loss"
    """Validation metric that decides which is best and when to stop early; ``accuracy`` is the share of
    learned tokens that are the likeliest."""
    parallel: Literal["data"] = "data"
    """Each process has a copy of the model."""


class SftSettings(Section):
    """Everything a fine-tuning run is made of."""

    task: Literal["sft"] = "sft"
    """Tells these settings from those of a reward model."""
    model: PolicySettings = PolicySettings()
    data: ExampleSettings = ExampleSettings()
    loss: kinds.chosen("holdtrue.policy.sft_losses", "likelihood") = Field(  # type: ignore[valid-type]
        default="likelihood", validate_default=True
    )
    """What training minimises: ``likelihood``, or ``{kind: distillation, reference: PATH}``."""
    training: SftTrainingSettings = SftTrainingSettings()
    seed: int = Field(42, ge=0)
    """Seed of adapters, the order of the examples and dropout."""

    def dump(self) -> dict[str, Any]:
        """Plain values, as written to ``settings.yaml``; :func:`build` of them gives equal settings."""
        return self.model_dump(mode="json")


def build(values: Mapping[str, Any]) -> SftSettings:
    """Typed settings from plain values.

    Raises:
        SettingsError: unknown key (names the nearest), wrong type or out of range (says what was seen).
    """
    return build_section(values, SftSettings)
