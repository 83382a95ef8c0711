"""The last layer computes only the rows that are read.

Of the last decoder layer's output only each answer's last token reaches the head. Keys and values are
still needed everywhere, but queries, the output projection and the feed-forward block are not, so
forward hooks feed these modules just the rows that are read and put the result back among zeros.
Exact for what is read; saves about 1/L of the linear work of L layers. The other rows of the last
hidden state become meaningless, so a loss that reads them must switch it off.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from holdtrue.tokens.attention import TreeMask, TreePlan, read_rows

_ATTENTION = ("self_attn", "attn", "attention")
_QUERY = ("q_proj",)
_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense")
_FEED_FORWARD = ("mlp", "block_sparse_moe", "feed_forward")


class ReadOnlyRows:
    """Hooks on one decoder layer that restrict it to a plan's read rows when the plan asks for it."""

    def __init__(self, layer: nn.Module, index: int) -> None:
        self.index = index
        self._rows: Tensor | None = None
        self._length = 0
        self._handles: list[Any] = []
        attention = _attention(layer)
        if attention is None:
            return
        self._handles.append(attention.register_forward_pre_hook(self._enter, with_kwargs=True))
        for module in _restrictable(layer, attention):
            self._handles += [
                module.register_forward_pre_hook(self._select),
                module.register_forward_hook(self._scatter),
            ]

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        # Attention comes first in a layer, and the mask travels with its call, so a layer recomputed under
        # checkpointing finds its own rows. Hooks of the layer itself are not run again there.
        masks = [value for value in (*args, *kwargs.values()) if isinstance(value, TreeMask)]
        plan = masks[0].plan if masks else None
        wanted = plan is not None and plan.read_only_layer == self.index
        self._rows = _cached_rows(plan) if plan is not None and wanted else None

    def _select(self, module: nn.Module, args: Any) -> Any:
        if self._rows is None:
            return None
        self._length = args[0].shape[1]
        return (args[0][:, self._rows], *args[1:])

    def _scatter(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._rows is None:
            return None
        if isinstance(output, tuple):
            return (self._spread(output[0]), *output[1:])
        return self._spread(output)

    def _spread(self, rows: Tensor) -> Tensor:
        whole = rows.new_zeros(rows.shape[0], self._length, rows.shape[2])
        assert self._rows is not None
        return whole.index_copy(1, self._rows, rows)


def _cached_rows(plan: TreePlan) -> Tensor:
    rows: Tensor = plan.cached("rows", lambda: read_rows(plan))
    return rows


def _attention(layer: nn.Module) -> nn.Module | None:
    children = dict(layer.named_children())
    return next((children[name] for name in _ATTENTION if name in children), None)


def _restrictable(layer: nn.Module, attention: nn.Module) -> list[nn.Module]:
    children, inside = dict(layer.named_children()), dict(attention.named_children())
    found = [inside[name] for name in (*_QUERY, *_OUTPUT) if name in inside]
    return found + [children[name] for name in _FEED_FORWARD if name in children]


def last_layer(backbone: nn.Module) -> tuple[nn.Module, int] | None:
    """The last of the backbone's decoder layers and its index, or ``None`` where they cannot be found."""
    for name in ("layers", "h"):
        layers = getattr(backbone, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers):
            return layers[-1], len(layers) - 1
    return None
