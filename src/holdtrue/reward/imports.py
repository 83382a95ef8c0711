"""Reward models that other tools saved, recognised by the weights in their folder.

    OpenRLHF         ``value_head.weight``, or the name ``value_head_prefix`` of config.json gives it
    LLaMA-Factory    ``v_head.summary.weight`` and ``.bias`` in value_head.safetensors, beside a causal LM or
                     its adapter; TRL's causal LM with a value head has them in one file
    DeepSpeed-Chat   ``v_head.weight``, all names of the backbone below ``rwtransformer.``
    trlx             ``v_head.weight``

All four read one linear map at the last real token, so what is loaded is an ordinary scalar model, and saving
it gives the ordinary format. Sources: openrlhf/models/model.py, llamafactory/train/callbacks.py,
dschat/utils/model/reward_model.py, trlx examples/summarize_rlhf/reward_model/reward_model.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from holdtrue.errors import ModelError
from holdtrue.reward.card import NAME as CARD
from holdtrue.reward.members import ENSEMBLE, IMPLICIT

_KNOWN = (
    "OpenRLHF (value_head.weight), LLaMA-Factory and TRL (v_head.summary.weight), "
    "DeepSpeed-Chat and trlx (v_head.weight)"
)
_MADE_OF_OTHERS = {
    ENSEMBLE: "an ensemble, which is not trained as one: train its members and combine them again",
    IMPLICIT: "a policy against its reference, which is only scored with: train the policy, by DPO",
}
_CONFIGS = ("config.json", "adapter_config.json")
_HEAD = re.compile("head|score|reward|value|regress")
_TO_SAFETENSORS = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('{bin}', weights_only=True); "
    "s.save_file({{k: v.clone() for k, v in w.items()}}, '{to}', metadata={{'format': 'pt'}})\""
)


@dataclass(frozen=True)
class Imported:
    """A head that another tool saved.

    Attributes:
        tool: who saved it.
        name: its name in the file.
        weight: (1, D) float32.
        bias: left out, as it shifts all rewards equally; 0 where the tool has none.
        prefix: what the names of the backbone's weights begin with, beyond their names in transformers.
        reward: mean and std of the rewards of a reference set, where config.json holds them (OpenRLHF).
    """

    tool: str
    name: str
    weight: Tensor
    bias: float = 0.0
    prefix: str = ""
    reward: dict[str, float] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The head's origin, in words."""
        scale = (
            ", its rewards' mean {mean:.4g} and std {std:.4g}".format(**self.reward) if self.reward else ""
        )
        return f"{self.name} {tuple(self.weight.shape)} as {self.tool} saves it{scale}"

    def backbone(self, folder: Path) -> dict[str, Tensor]:
        """The weights whose names begin with the prefix, without it."""
        weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as opened:
                names = [key for key in opened.keys() if key.startswith(self.prefix)]  # noqa: SIM118
                weights |= {key.removeprefix(self.prefix): opened.get_tensor(key) for key in names}
        return weights

    def put_into(self, head: torch.nn.Linear, folder: str) -> None:
        """Copy the weights into a head, which becomes float32.

        Raises:
            ModelError: the head has another shape.
        """
        if head.weight.shape != self.weight.shape:
            raise ModelError(
                f"{folder}: the head {self.described} does not fit the model's {tuple(head.weight.shape)}"
            )
        head.float()
        head.weight.data.copy_(self.weight)


def recognise(folder: Path, config: Any) -> Imported | None:
    """The head another tool left in a folder; None where there is none, or it is in the ordinary format.

    Raises:
        ModelError: it is of a layout that is not known, not linear or not finite.
    """
    names = _outside_layers(folder)
    ordinary = any("SequenceClassification" in name for name in config.architectures or [])
    if ordinary or (folder / CARD).is_file() or not names:
        return None
    prefix = getattr(config, "value_head_prefix", "value_head")
    added = ""
    if f"{prefix}.weight" in names:
        tool, name = "OpenRLHF", f"{prefix}.weight"
    elif "score.weight" in names:
        tool, name = "OpenRLHF", "score.weight"
    elif "v_head.summary.weight" in names:
        name = "v_head.summary.weight"
        tool = "LLaMA-Factory" if names[name].name == "value_head.safetensors" else "TRL"
    elif "v_head.weight" in names:
        tool, name = "trlx", "v_head.weight"
        if any(key.startswith("rwtransformer.") for key in _keys(names[name])):
            tool, added = "DeepSpeed-Chat", "rwtransformer."
    else:
        _refuse_unknown(folder, names)
        return None
    weight = _tensor(names[name], name)
    if weight.shape[0] != 1:  # classes or aspects, which only the ordinary format has
        return None
    bias_name = name.removesuffix("weight") + "bias"
    bias = _tensor(names[bias_name], bias_name) if bias_name in names else torch.zeros(1)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ModelError(f"{folder}: the head {name} is not finite")
    scale = {key: getattr(config, key, None) for key in ("mean", "std")}
    reward = {key: float(value) for key, value in scale.items() if isinstance(value, (int, float))}
    return Imported(tool, name, weight, float(bias), added, reward if len(reward) == 2 else {})


def refuse_unreadable(folder: Path) -> None:
    """Say of folders that hold no weights of a model what they are.

    Raises:
        ModelError: the weights are pickles, or those of other folders.
    """
    if folder.is_file():
        raise ModelError(f"{folder} is a file; a model is a folder with config.json in it")
    if (folder / "settings.yaml").is_file():
        raise ModelError(f"{folder} is a run; the model it trained is {folder / 'model'}")
    for name, text in _MADE_OF_OTHERS.items():
        if (folder / name).is_file():
            raise ModelError(f"{folder} is {text}")
    if folder.is_dir() and not any((folder / name).is_file() for name in _CONFIGS):
        raise ModelError(f"{folder} is not a model folder (no config.json in it)")
    if any(folder.glob("*.safetensors")):
        return
    for file in sorted(folder.glob("*.bin")):
        if file.name.startswith(("pytorch_model", "adapter_model", "value_head")):
            to = file.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
            command = _TO_SAFETENSORS.format(bin=file.name, to=to)
            raise ModelError(
                f"{folder} holds {file.name}, a pickle, which can run code when it is read; if you trust it, "
                f"convert it in that folder: {command}"
            )


def _outside_layers(folder: Path) -> dict[str, Path]:
    """Names without a number in them and their files: embeddings, last norms and heads.

    An MLP's ``v_head.0.weight`` is kept too.
    """
    return {
        key: file
        for file in sorted(folder.glob("*.safetensors"))
        for key in _keys(file)
        if key.startswith("v_head.") or not any(part.isdigit() for part in key.split("."))
    }


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError):  # whoever loads the weights says what is wrong with the file
        return []


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, "pt") as opened:
        found: Tensor = opened.get_tensor(name).float()
    return found


def _refuse_unknown(folder: Path, names: dict[str, Path]) -> None:
    if "v_head.0.weight" in names:
        raise ModelError(
            f"{folder}: v_head has several layers, as the value function of trlx's PPO; "
            "only a linear head can be read"
        )
    if (folder / "adapter_config.json").is_file():  # peft's own names
        return
    for name, file in names.items():
        with safe_open(file, "pt") as opened:
            shape = opened.get_slice(name).get_shape()
        if _HEAD.search(name) and len(shape) == 2 and shape[0] == 1:
            raise ModelError(
                f"{folder}: {name} {tuple(shape)} looks like a head, but of a layout that is not known; "
                f"known: {_KNOWN}"
            )
