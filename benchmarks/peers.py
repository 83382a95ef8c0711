"""TRL's RewardTrainer, as it comes and tuned as well as it can be."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import PrinterCallback, TrainerCallback
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from measurement import Sample, Stopwatch
from workloads import Size, Workload, classifier, tokenizer

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.logging.set_verbosity_error()
datasets.disable_progress_bars()
datasets.disable_caching()
for name in ("accelerate", "sentence_transformers"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Timer(TrainerCallback):
    """Times training proper: neither the making of the trainer nor that of the optimiser."""

    def __init__(self) -> None:
        self.watch = Stopwatch()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.watch.__enter__()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.watch.__exit__()


class _CountingCollator(DataCollatorForPreference):
    """TRL's collator, which also counts the tokens it hands out, padding included."""

    padded = 0

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        self.padded += batch["input_ids"].numel()
        return batch


class TrlTraining:
    """One epoch of a workload with TRL.

    As it comes: random batches of 8, gradient checkpointing, bf16 autocast.
    Tuned: batches of pairs of like length (given ready-made and in sequence, because below 64 pairs
    ``group_by_length`` groups nothing), bf16 autocast, no checkpointing, no length limit.
    """

    def __init__(self, workload: Workload, size: Size, *, tuned: bool, device: str = "cpu") -> None:
        pairs = [pair for step in workload.steps for pair in step]
        rows = {"chosen_ids": [c for c, _ in pairs], "rejected_ids": [r for _, r in pairs]}
        options: dict[str, Any] = {"per_device_train_batch_size": 8}
        if tuned:
            options = {
                "per_device_train_batch_size": workload.peer_batch,
                "gradient_accumulation_steps": len(workload.steps[0]) // workload.peer_batch,
                "train_sampling_strategy": "sequential",
                "gradient_checkpointing": False,
                "max_length": None,
            }
        self._folder = tempfile.TemporaryDirectory()
        self.model = classifier(size, device=device)
        self._timer = Timer()
        self._collator = _CountingCollator(tokenizer().pad_token_id)
        self.trainer = RewardTrainer(
            model=self.model,
            args=RewardConfig(
                output_dir=str(Path(self._folder.name)),
                num_train_epochs=1,
                use_cpu=device == "cpu",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **options,
            ),
            data_collator=self._collator,
            train_dataset=datasets.Dataset.from_dict(rows),
            processing_class=tokenizer(),
            callbacks=[self._timer],
        )
        self.trainer.remove_callback(PrinterCallback)
        assert len(self.trainer.train_dataset) == workload.pairs, "TRL dropped rows"

    def rewards(self, sequences: list[list[int]]) -> torch.Tensor:
        """Rewards of token ids as a padded batch, in float32."""
        width = max(map(len, sequences))
        pad = tokenizer().pad_token_id
        ids = torch.tensor([s + [pad] * (width - len(s)) for s in sequences])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
        device = next(self.model.parameters()).device
        with torch.no_grad():
            logits: torch.Tensor = self.model(ids.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0].cpu()

    def run(self, seed: int) -> Sample:
        """Train one epoch."""
        self._collator.padded = 0
        torch.manual_seed(seed)
        self.trainer.train()
        watch = self._timer.watch
        return Sample(watch.cpu, watch.wall, self._collator.padded)
