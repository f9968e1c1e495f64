"""Parameters, multiply-adds and bytes, counted without computing anything."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.families import build
from nasdistill.models.limits import bounded
from nasdistill.space import Architecture

# fmt: off
FREE = frozenset([
    "_adaptive_avg_pool2d", "adaptive_max_pool2d", "amax", "amin", "any", "arange", "argmax",
    "as_strided_", "avg_pool2d", "bernoulli", "cat", "clone", "constant_pad_nd", "copy_", "cumsum",
    "embedding", "empty", "empty_like", "empty_strided", "fill_", "flip", "full", "full_like",
    "gather", "hardswish", "hardswish_", "index", "index_select", "lift_fresh_copy",
    "linalg_vector_norm", "_log_softmax", "masked_fill", "max", "max_pool2d_with_indices", "mean",
    "min", "native_batch_norm", "_native_batch_norm_legit_no_training", "native_dropout",
    "native_group_norm", "native_layer_norm", "new_empty", "new_full", "new_ones", "new_zeros",
    "ones", "ones_like", "pixel_shuffle", "pixel_unshuffle", "reflection_pad2d", "repeat",
    "replication_pad2d", "resize_", "roll", "_safe_softmax", "scalar_tensor", "scatter",
    "select_scatter", "slice_scatter", "_softmax", "sort", "stack", "std", "sum", "_to_copy",
    "topk", "tril", "triu", "_unsafe_view", "upsample_bicubic2d", "_upsample_bicubic2d_aa",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "var", "var_mean", "zero_", "zeros", "zeros_like",
])
# fmt: on
"""ATen operators beside views and pointwise ones that count as no multiply-adds: they move, reduce,
norm, pool, or look up.
"""


@dataclass(frozen=True)
class Counts:
    """The costs of a model that are known before it runs.

    Attributes:
        params: Learned numbers.
        macs: Multiply-adds of convolutions and matrix products for one image (half of what
            `torch.utils.flop_counter` counts); norms, activations and pooling are free, and
            operators that are neither counted nor known to be free are warned about.
        bytes: Parameters and buffers in fp32, as stored.
        depth: Convolutions and linear layers.
        activations: Numbers that operators write for one image, views apart. What a model reads
            and writes tells more of its latency than MACs do (Radosavovic et al., "Designing
            Network Design Spaces", 2020, who count what convolutions write).
    """

    params: int
    macs: int
    bytes: int
    depth: int
    activations: int


class UncountedWarning(UserWarning):
    """A model uses operators whose multiply-adds nobody counts: its MACs are too low."""


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that are neither counted nor known to be free, and what all write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uncounted: set[str] = set()
        self.written = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        free = func.is_view or torch.Tag.pointwise in func.tags
        free = free or (func.namespace in ("aten", "prim") and packet.__name__ in FREE)
        if not free and packet not in flop_registry:
            self.uncounted.add(str(packet))
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view and packet.__name__ not in ("empty", "new_empty"):
            tensors = [t for t in tree_leaves(outputs) if isinstance(t, torch.Tensor)]
            self.written += sum(t.numel() for t in tensors)
        return outputs


def count_architecture(architecture: Architecture, input: Input, classes: int) -> Counts:
    """Counts an architecture on the meta device: nothing is computed.

    Warns:
        UncountedWarning: Naming operators that are neither counted nor known to be free.

    Raises:
        UserError: If the module cannot be built, has too many tensors (see `models.limits`), or
            cannot take such an image.
    """
    source = f"architecture {architecture.fingerprint}"
    with torch.device("meta"), bounded(source):
        module = build(architecture, input, classes)
    try:
        return _count_meta(module, input)
    except (RuntimeError, ValueError, AssertionError) as error:
        size = f"{input.channels}x{input.height}x{input.width}"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: cannot take images of {size} ({reason})") from None


def count_params(architecture: Architecture, input: Input, classes: int) -> int:
    """Parameters of an architecture, on the meta device: a tenth of the time of all counts.

    Raises:
        UserError: As `count_architecture`.
    """
    with torch.device("meta"), bounded(f"architecture {architecture.fingerprint}"):
        module = build(architecture, input, classes)
    return sum(p.numel() for p in module.parameters())


def count_module(module: nn.Module, input: Input) -> Counts:
    """Counts a module; it is copied, not changed.

    Warns:
        UncountedWarning: As `count_architecture`.
    """
    return _count_meta(copy.deepcopy(module).to("meta"), input)


def bytes_of_widest_layer(module: nn.Module, input: Input) -> int:
    """Bytes that a layer's inputs and outputs take for one image, of the layer with the most.

    So much at least must be held at once to run the module.
    """
    widest = 0

    def measure(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal widest
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        widest = max(widest, sum(t.numel() * t.element_size() for t in tensors))

    copied = copy.deepcopy(module).to("meta").eval()
    for layer in copied.modules():
        layer.register_forward_hook(measure)
    with torch.no_grad():
        copied(torch.empty(1, input.channels, *input.size, device="meta"))
    return widest


def _count_meta(module: nn.Module, input: Input) -> Counts:
    module.eval()
    image = torch.empty(1, input.channels, *input.size, device="meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The mode entered last sees an operator first: what arrives at the outer one has been
        # taken apart by the counter already.
        with torch.no_grad(), _Operators() as operators, FlopCounterMode(display=False) as counter:
            module(image)
    if operators.uncounted:
        names = ", ".join(sorted(operators.uncounted))
        warnings.warn(f"not counted in the MACs: {names}", UncountedWarning, stacklevel=3)
    params = sum(p.numel() for p in module.parameters())
    stored = params + sum(b.numel() for b in module.buffers())
    depth = sum(isinstance(m, _ConvNd | nn.Linear) for m in module.modules())
    return Counts(params, counter.get_total_flops() // 2, 4 * stored, depth, operators.written)
