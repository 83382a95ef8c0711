from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdtrue.errors import ModelError
from holdtrue.reward import gate
from holdtrue.reward.kinds.aspects import GateSettings


def test_a_linear_gate_of_three_aspects_by_hand() -> None:
    # logits (10, 0, -10) at T = 10 are softmax(1, 0, -1); with aspects (0.5, 0.2, 0.9) the reward is
    # 0.665241 · 0.5 + 0.244728 · 0.2 + 0.090031 · 0.9 = 0.462594
    made = gate.Gate(1, 3, GateSettings(layers=0, temperature=10))
    made.mlp[0].weight.data = torch.tensor([[10.0], [0.0], [-10.0]])
    made.mlp[0].bias.data.zero_()
    weights = made(torch.ones(1, 1))
    assert weights[0].tolist() == pytest.approx([0.665241, 0.244728, 0.090031], abs=1e-6)
    assert (weights @ torch.tensor([0.5, 0.2, 0.9])).item() == pytest.approx(0.462594, abs=1e-6)
    made.scale.data.fill_(2.0)
    assert made(torch.ones(1, 1)).sum().item() == pytest.approx(2)


def test_a_saved_gate_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    settings = GateSettings(width=8)
    made = gate.Gate(4, 3, settings, seed=1).eval()
    gate.save(made, tmp_path)
    states = torch.randn(5, 4)
    assert torch.equal(gate.load(tmp_path, 4, 3, settings)(states), made(states))


@pytest.mark.parametrize("aspects", [2, 3])
def test_a_gate_that_is_missing_or_of_another_shape_is_said_to_be(tmp_path: Path, aspects: int) -> None:
    if aspects == 2:
        gate.save(gate.Gate(4, 3, GateSettings(width=8)), tmp_path)
    with pytest.raises(ModelError, match=r"cannot be read from gate\.safetensors"):
        gate.load(tmp_path, 4, aspects, GateSettings(width=8))
