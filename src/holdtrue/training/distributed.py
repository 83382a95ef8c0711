"""Several processes: who am I, sums over all of them, sharding.

Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK; gloo on CPU, NCCL on GPU. Each process
computes its share of a step's trees and all gradients and counts are summed, so that the result is that
of one process up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from holdtrue.errors import ResourceError, SettingsError


@dataclass(frozen=True)
class World:
    """This process among its siblings."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    sharded: bool = False

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def total(self, values: Iterable[float]) -> list[float]:
        """Element-wise sum over all processes, in float64."""
        sums = list(values)
        if self.size == 1:
            return sums
        where = self.device if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(sums, dtype=torch.float64, device=where)
        _sum(tensor)
        return [float(value) for value in tensor.tolist()]

    def part(self, count: int) -> slice:
        """This process's share of ``count`` things in a row; shares lie in the order of ranks."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, in the order of ranks."""
        found: list[Any] = [value]
        if self.size > 1:
            found = [None] * self.size
            with _sibling_errors():
                dist.all_gather_object(found, value)
        return found

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, in place."""
        if self.size > 1:
            _sum(tensor)
        return tensor

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Sum gradients over all processes (sharded parameters have theirs summed already).

        A parameter that has none in any process keeps none, so that an optimiser leaves it alone.
        """
        if self.size == 1 or self.sharded:
            return
        held = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        _sum(held)
        for group in _buckets([p for p, count in zip(parameters, held.tolist(), strict=True) if count]):
            flat = torch.cat([_gradient(p).reshape(-1) for p in group])
            _sum(flat)
            for parameter, part in zip(group, torch.split(flat, [p.numel() for p in group]), strict=True):
                parameter.grad = part.view_as(parameter).clone()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            with _sibling_errors():
                dist.barrier()


ALONE = World()
"""A process without siblings."""


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def join(expected: int | None, parallel: str, patience: float = 600.0) -> Iterator[World]:
    """The world this process was started into; processes wait ``patience`` seconds for one another.

    Raises:
        SettingsError: ``expected`` processes were asked for and another number is running.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if expected is not None and expected > 1 and size != expected:
        raise SettingsError(f"training.processes is {expected} but {size} are running")
    device = default_device()
    if size == 1 and parallel != "fsdp":
        yield World(device=device)
        return
    if device == "cuda":
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    if size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if "cuda" in device else "gloo", store=store, rank=0, world_size=1)
    else:
        dist.init_process_group("nccl" if "cuda" in device else "gloo", timeout=timedelta(seconds=patience))
    try:
        yield World(rank, size, device, sharded=parallel == "fsdp")
    finally:
        dist.destroy_process_group()


def shard(model: Any, world: World) -> None:
    """Shard a RewardModel's parameters, layer by layer (FSDP2 ``fully_shard``); gradients are summed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.split(":")[0], (world.size,))
    layers = getattr(model.backbone, "layers", None) or getattr(model.backbone, "h", None) or []
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in (*layers, model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # else a scaled sum, which gloo does not know


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor (every process must ask), or the tensor itself."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


@torch.no_grad()
def load_whole(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a parameter or buffer, taking this process's part of it if sharded."""
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)  # type: ignore[attr-defined]
    target.copy_(whole)


def _sum(tensor: Tensor) -> None:
    with _sibling_errors():
        dist.all_reduce(tensor)


@contextmanager
def _sibling_errors() -> Iterator[None]:
    """Say what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(
            "another process of this run ended: if it did not say why, the system killed it, as it does "
            f"when memory runs out ({str(error).splitlines()[0][:200]})"
        ) from error


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def _buckets(parameters: list[nn.Parameter], elements: int = 1 << 24) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and (
            sum(p.numel() for p in bucket) + parameter.numel() > elements
            or parameter.dtype != bucket[0].dtype
        ):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
