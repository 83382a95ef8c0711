"""The same numbers as TRL 1.16 on the same tensors: its losses, and the advantages its trainers log.

TRL keeps its loss in a method that calls the model; here the model is replaced by given log-probs.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import policy_steps as steps
from holdtrue import kinds
from holdtrue.policy import advantages
from holdtrue.policy.algorithms import FAMILY
from holdtrue.policy.inputs import LossInputs

pytest.importorskip("trl", "1.16", reason="needs pip install trl==1.16.0")
pytestmark = pytest.mark.filterwarnings("ignore")


def case(seed: int = 0) -> LossInputs:
    """Without rows that are not kept, which TRL counts in its means and we do not."""
    scored = steps.scored(seed)
    scored = type(scored)(**{**vars(scored), "keep": torch.ones_like(scored.keep)})
    found = advantages.grpo(scored.rewards, scored.keep, scored.group)
    return steps.inputs(seed, scored, found, None)


def trls(trainer: Any, inputs: LossInputs, **changes: Any) -> Tensor:
    """TRL's loss; ``changes`` are fields of its trainer."""
    fields = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "max_completion_length": inputs.max_new_tokens,
    } | changes
    ours = SimpleNamespace(
        **fields,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (inputs.logprobs, inputs.entropy, None),
    )
    rows, mask = torch.zeros_like(inputs.mask, dtype=torch.long), inputs.mask.long()
    batch = {"prompt_ids": rows, "prompt_mask": rows, "completion_ids": rows, "completion_mask": mask}
    batch |= {"advantages": inputs.advantages, "old_per_token_logps": inputs.old_logprobs}
    batch |= {"ref_per_token_logps": inputs.reference_logprobs, "num_items_in_batch": mask.sum()}
    batch["old_logps"] = (inputs.old_logprobs * mask).sum(1)
    loss: Tensor = trainer._compute_loss(ours, None, batch)
    return loss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "fields", "changes"),
    [
        ("grpo", {"kl_coef": 0.1}, {"beta": 0.1}),
        ("grpo", {"kl_coef": 0.0}, {}),
        ("dr_grpo", {}, {"loss_type": "dr_grpo"}),
        ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
        (
            "gspo",
            {},
            {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        ),
    ],
)
def test_losses_and_gradients_are_those_of_trls_grpo(
    seed: int, name: str, fields: dict[str, float], changes: dict[str, Any]
) -> None:
    from trl import GRPOTrainer

    inputs = case(seed)
    same(kinds.load(FAMILY, name)(**fields), trls(GRPOTrainer, inputs, **changes), inputs)


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients_are_those_of_trls_rloo(seed: int) -> None:
    from trl import RLOOTrainer

    inputs = case(seed)
    same(kinds.load(FAMILY, "rloo")(), trls(RLOOTrainer, inputs), inputs)


def same(algorithm: Any, theirs: Tensor, inputs: LossInputs) -> None:
    ours = algorithm.loss(inputs).loss.value
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    mine, other = (torch.autograd.grad(loss, inputs.logprobs)[0] for loss in (ours, theirs))
    assert torch.allclose(mine, other, atol=1e-14) and mine.any()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_advantages_are_those_that_trls_trainers_log(
    name: str, base_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("trl").setLevel(logging.ERROR)
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    rewards = [
        1.0,
        2.0,
        None,
        6.0,
        0.5,
        None,
        None,
        None,
    ]  # two groups; a row is unscorable, then all but one

    def reward(completions: list[Any], **_: Any) -> list[float | None]:
        return rewards[: len(completions)]

    common = {
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 3,
        "max_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "beta": 0.0,
    }
    if name == "rloo":
        trainer_class, config = RLOOTrainer, RLOOConfig(**common)
    else:
        config = GRPOConfig(**common, scale_rewards="group" if name == "grpo" else "none")
        trainer_class = GRPOTrainer
    data = Dataset.from_dict({"prompt": ["Name a fruit.", "Name a stone."]})
    trainer = trainer_class(str(base_model()), reward, args=config, train_dataset=data)
    trainer.train()
    theirs = list(trainer._logs["advantages"])
    scores = torch.tensor([float("nan") if r is None else r for r in rewards])
    ours = getattr(advantages, name)(scores, ~scores.isnan(), 4)
    assert theirs == pytest.approx(ours.tolist(), abs=1e-6)
    assert any(theirs)
