"""The gate: how much each aspect counts, decided by the prompt alone (ArmoRM, arXiv 2406.12845, section 3.2).

    g = s · softmax(mlp(h) / T)          (N, K) of h (N, D), the state at the prompt's last token

T keeps the gate from settling on one aspect, and s, which is learned and begins at 1, gives rewards the
scale of Bradley-Terry. An untrained gate is close to 1 / K each.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from holdtrue.errors import ModelError

if TYPE_CHECKING:
    from holdtrue.reward.kinds.aspects import GateSettings

NAME = "gate.safetensors"


class Gate(nn.Module):
    """Weights of the aspects for each prompt, in float32.

    Args:
        width: D, of the backbone's states.
        aspects: K.
        settings: the shape of the network and its temperature.
        seed: of the first weights.
    """

    def __init__(self, width: int, aspects: int, settings: GateSettings, seed: int = 0) -> None:
        super().__init__()
        self.temperature = settings.temperature
        sizes = [width] + [settings.width] * settings.layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts: list[nn.Module] = []
            for inner, outer in pairwise(sizes):
                parts += [nn.Linear(inner, outer), nn.ReLU(), nn.Dropout(settings.dropout)]
            self.mlp = nn.Sequential(*parts, nn.Linear(sizes[-1], aspects))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, prompts: Tensor) -> Tensor:
        """(N, D) states of prompts to (N, K) weights."""
        return self.scale * torch.softmax(self.mlp(prompts) / self.temperature, -1)


def save(gate: Gate, folder: Path) -> None:
    """Write the gate beside a model's weights."""
    weights = {name: value.detach().cpu().contiguous() for name, value in gate.state_dict().items()}
    save_file(weights, folder / NAME, metadata={"format": "pt"})


def load(folder: Path, width: int, aspects: int, settings: GateSettings) -> Gate:
    """The gate of a model folder, bit for bit.

    Raises:
        ModelError: it is not there, cannot be read or has other shapes than its card says.
    """
    gate = Gate(width, aspects, settings).eval()
    try:
        gate.load_state_dict(load_file(folder / NAME))
    except (OSError, SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"the gate that {folder} says it has cannot be read from {NAME}: {said}") from error
    return gate
