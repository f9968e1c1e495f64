"""Intermediate outputs of a model by module name, read through forward hooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill.common.types import Input, nearest
from nasdistill.models.classifier import Classifier, Kept
from nasdistill.models.slicing import Passes

SPECIAL_TOKENS = (
    "cls_token",
    "class_token",
    "dist_token",
    "distillation_token",
    "reg_token",
    "register_tokens",
)
"""Names of parameters that stand before a transformer's patches."""

USUAL_SPECIAL_TOKENS = (0, 1, 2, 4, 5)
"""Numbers of such tokens: none; a class token; a distillation token too; four registers; both."""

INPUT = ":in"
"""Suffix of a module's name where its input is meant."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model for a batch.

    Attributes:
        logits: Floating point `[B, C]`.
        features: Intermediate outputs by module name, for terms that need them.
        module: The model that gave them; None where that is no module.
        known: bool `[B]`, the examples that there are outputs for; None for all.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    module: nn.Module | None = None
    known: Tensor | None = None


class LayerError(ValueError):
    """A layer that does not exist, or does not fit."""


def body(module: nn.Module) -> nn.Module:
    """The network inside our `Classifier`, whose names users know; any other module is itself."""
    return module.net if isinstance(module, Classifier) else module


@contextmanager
def hooked(module: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Reads outputs of some modules while the block runs; the hooks are gone afterwards.

    Args:
        module: The model; names are those of its `body`.
        layers: Names of modules; with the suffix `:in`, the input of that module.

    Yields:
        A dictionary that each forward pass fills, by the names given.
    """
    modules = dict(body(module).named_modules())
    tensors: dict[str, Tensor] = {}
    handles = []
    try:
        for layer in layers:
            target = modules[layer.removesuffix(INPUT)]
            if layer.endswith(INPUT):
                handles.append(target.register_forward_pre_hook(_keep_input(tensors, layer)))
            else:
                handles.append(target.register_forward_hook(_keep_output(tensors, layer)))
        yield tensors
    finally:
        for handle in handles:
            handle.remove()


def forward(module: nn.Module, images: Tensor, layers: Iterable[str]) -> Outputs:
    """Runs one forward pass, and reads the outputs of some layers."""
    names = tuple(layers)
    if not names:
        return Outputs(module(images), module=module)
    with hooked(module, names) as features:
        logits = module(images)
    return Outputs(logits, features, module)


@dataclass(frozen=True)
class ModelSummary:
    """The layers of a model, and its size.

    Attributes:
        name: Its name in messages.
        module: The model's `body`.
        shapes: Shape of each module's output by name, without the batch, in order of execution;
            modules whose output is no tensor are left out.
        blocks: The layers that a number stands for: transformer blocks; else the last layer at each
            resolution; else all linear layers but the last. None that was left out of the net that
            it was cut from.
        params: Number of parameters.
        classes: Number of logits.
        special: Number of tokens that a transformer puts before its patches: class, distillation
            and register tokens; None where it does not tell.
        weights: Hash of its weights, of a frozen teacher; else empty.
        kept: What it has kept of the net that it was cut from.
    """

    name: str
    module: nn.Module
    shapes: Mapping[str, tuple[int, ...]]
    blocks: tuple[str, ...]
    params: int
    classes: int
    special: int | None = None
    weights: str = ""
    kept: Kept | None = None

    def kept_of(self, whole: ModelSummary) -> Kept | None:
        """What it has kept of a net; None if it was not cut from that."""
        return self.kept if self.kept is not None and self.kept.of == whole.weights else None

    def special_tokens(self, layer: str) -> int:
        """Number of tokens before the patches in a layer's output; 0 if it is no tokens `[N, D]`.

        Of the numbers that the model may have put there, the first that leaves a square. A grid
        that is no square has those that the model tells of, behind its blocks.
        """
        shape = self.shapes[layer]
        if len(shape) != 2:
            return 0
        numbers = USUAL_SPECIAL_TOKENS if self.special is None else (self.special, 0)
        for number in numbers:
            if number < shape[0] and math.isqrt(shape[0] - number) ** 2 == shape[0] - number:
                return number
        is_block = any(self.shapes[block] == shape for block in self.blocks)
        return self.special if self.special is not None and is_block else 0

    def layer(self, key: str) -> str:
        """The full name of a layer, from its name or its number among the `blocks`.

        Raises:
            LayerError: If there is none; the message lists those that there are.
        """
        index = key.removeprefix("-")
        if index.isdecimal():
            if not -len(self.blocks) <= int(key) < len(self.blocks):
                raise LayerError(
                    f"the {self.name} has no layer {key}: its {len(self.blocks)} layers are "
                    f"{', '.join(f'{i} {name}' for i, name in enumerate(self.blocks))}"
                )
            return self.blocks[int(key)]
        if key not in self.shapes:
            known = ", ".join(self._known())
            raise LayerError(
                f"the {self.name} has no layer {key!r}{nearest(key, self.shapes)}; by number: "
                f"{', '.join(f'{i} {name}' for i, name in enumerate(self.blocks))}; by name: "
                f"{known}"
            )
        return key

    def _known(self) -> list[str]:
        """Names to choose from; of many, the shorter paths."""
        names = [name for name in self.shapes if name]
        depth = 1
        while sum(name.count(".") <= depth for name in names) <= 40 and depth < 12:
            depth += 1
        return [name for name in names if name.count(".") < depth]


def summarise(module: nn.Module, name: str, input: Input) -> ModelSummary:
    """Summarises a model by a forward pass of two blank images in eval mode.

    Args:
        module: Takes images `[B, C, H, W]`, gives logits; left as it was.
        name: Its name in messages.
        input: Shape of its images.
    """
    inner = body(module)
    device = next((t.device for t in module.parameters()), torch.device("cpu"))
    blank = torch.zeros(2, input.channels, *input.size, device=device)
    shapes: dict[str, tuple[int, ...]] = {}
    handles = [
        part.register_forward_hook(_keep_shape(shapes, path))
        for path, part in inner.named_modules()
    ]
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            logits = module.eval()(blank)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
    return ModelSummary(
        name=name,
        module=inner,
        shapes=shapes,
        blocks=_blocks(inner, shapes),
        params=sum(p.numel() for p in inner.parameters()),
        classes=int(logits.shape[1]),
        special=_special_tokens(inner),
        kept=module.kept if isinstance(module, Classifier) else None,
    )


def _blocks(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    return (
        _transformer_blocks(module, shapes)
        or _resolutions(module, shapes)
        or tuple(
            name
            for name, part in module.named_modules()
            if isinstance(part, nn.Linear) and len(shapes.get(name, ())) == 1
        )[:-1]
    )


def _transformer_blocks(
    module: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """The longest row of alike modules that give tokens `[N, D]` of one shape."""
    longest: tuple[str, ...] = ()
    for name, part in module.named_modules():
        if not isinstance(part, (nn.Sequential, nn.ModuleList)) or not len(part):
            continue
        children = [(c, m) for c, m in part.named_children() if not isinstance(m, Passes)]
        row = tuple(f"{name}.{child}" if name else child for child, _ in children)
        alike = {(type(m), shapes.get(path)) for path, (_, m) in zip(row, children, strict=True)}
        tokens = len(alike) == 1 and len(shapes.get(row[0], ())) == 2
        if tokens and len(row) > len(longest):
            longest = row
    return longest


def _special_tokens(module: nn.Module) -> int | None:
    """Number of tokens that a transformer puts before its patches; None where it does not tell.

    timm says it in `num_prefix_tokens`; in torchvision and transformers each kind of token is a
    parameter `[1, n, D]` of a usual name.
    """
    count = getattr(module, "num_prefix_tokens", None)
    if isinstance(count, int):
        return count
    tokens = [
        parameter.shape[1]
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2] in SPECIAL_TOKENS and parameter.ndim == 3
    ]
    return sum(tokens) if tokens else None


def is_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a map is rather `[H, W, C]` than `[C, H, W]`, as some transformers give."""
    return len(shape) == 3 and shape[0] == shape[1] < shape[2]


def _resolutions(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The last layer at each resolution, but for 1x1, along the model's main path."""
    by_size: dict[tuple[int, ...], str] = {}
    for name in _main_path(module, "", shapes):
        by_size[shapes[name][1:]] = name
    return tuple(name for size, name in by_size.items() if max(size) > 1)


def _main_path(module: nn.Module, path: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Layers with maps `[C, H, W]`, a container opened where its children differ in resolution."""
    order = {name: place for place, name in enumerate(shapes)}
    opened: list[str] = []
    for name in sorted(_children(module, path, shapes), key=order.__getitem__):
        part = module.get_submodule(name.removeprefix(path).removeprefix("."))
        below = {shapes[n][1:] for n in _children(part, name, shapes) if len(shapes[n]) == 3}
        if is_channels_last(shapes[name]) or isinstance(part, Passes):
            continue
        is_map = len(shapes[name]) == 3
        if not is_map or (len(below - {(1, 1)}) > 1 and not _is_block(part, name, shapes)):
            opened += _main_path(part, name, shapes)
        else:
            opened.append(name)
    return opened


def _is_block(part: nn.Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a module is one block: no plain row of layers, and it shrinks its input only once."""
    if isinstance(part, nn.Sequential):
        return False
    sides = {shapes[n][1] for n in shapes if n.startswith(f"{name}.") and len(shapes[n]) == 3}
    sides.discard(1)
    return len(sides) <= 2


def _children(module: nn.Module, path: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Direct children that ran; those of a container that is never called itself count as such."""
    for child, part in module.named_children():
        name = f"{path}.{child}" if path else child
        if name in shapes:
            yield name
        else:
            yield from _children(part, name, shapes)


def _tensor(value: Any) -> Tensor | None:
    """The tensor in a module's output: itself, the first of a tuple, or the hidden state."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return _tensor(value[0])
    hidden = getattr(value, "last_hidden_state", None)
    return hidden if isinstance(hidden, Tensor) else None


def _keep_output(tensors: dict[str, Tensor], layer: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = _tensor(output)
        assert tensor is not None, f"{layer} gives no tensor"
        tensors[layer] = tensor.clone()  # The next module may change it in place.

    return hook


def _keep_input(tensors: dict[str, Tensor], layer: str) -> Any:
    def hook(module: nn.Module, inputs: Any) -> None:
        tensor = _tensor(inputs)
        assert tensor is not None, f"{layer} takes no tensor"
        tensors[layer] = tensor.clone()  # This module may change it in place.

    return hook


def _keep_shape(shapes: dict[str, tuple[int, ...]], path: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = _tensor(output)
        if tensor is not None and tensor.ndim > 1:
            shapes.pop(path, None)  # A module that runs twice stands where it ran last.
            shapes[path] = tuple(tensor.shape[1:])

    return hook
