"""First weights of a net that was cut, as its library would draw them for a net of that shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features",
    "normalized_shape", "num_channels", "num_parameters",
)  # fmt: skip
"""Attributes of layers by which libraries choose how far weights spread."""


class Registration(NamedTuple):
    """A parameter as it is given to a module.

    Attributes:
        module: The module.
        name: The parameter's there.
    """

    module: nn.Module
    name: str


def initialise(net: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Draws the weights of a net that was cut anew, as if it had been built in its shape.

    How far they spread depends on a layer's width, and libraries draw them while they build. So the
    whole net is built once more, and every parameter that was cut gets its shape as soon as it is
    there, before it is drawn. A library that cannot do with that leaves the net as it was.

    Args:
        net: With the names of the whole net; changed in place.
        build: Builds the whole net, always the same way.
    """
    order: list[Registration] = []
    with torch.device("meta"), _registered(lambda m, n, _: order.append(Registration(m, n))):
        whole = build()
    names = {id(module): name for name, module in whole.named_modules()}
    layers, parameters = dict(net.named_modules()), dict(net.named_parameters())
    shapes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    number = -1

    def reshape(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        nonlocal number
        number += 1
        layer = names.get(id(order[number].module)) if number < len(order) else None
        if (
            layer is None
            or order[number].name != name
            or type(module) is not type(order[number].module)
        ):
            return None
        place = f"{layer}.{name}" if layer else name
        if place not in parameters or parameters[place].shape == shapes.get(place):
            return None
        for size in _SIZES:
            if hasattr(layers[layer], size) and hasattr(module, size):
                setattr(module, size, getattr(layers[layer], size))
        part = parameter.detach()[tuple(slice(0, size) for size in parameters[place].shape)]
        return nn.Parameter(part.clone(), parameter.requires_grad)

    try:
        with _registered(reshape):
            drawn = dict(build().named_parameters())
    except Exception:  # of any kind: libraries do not expect such shapes
        return
    if any(name not in drawn or drawn[name].shape != p.shape for name, p in parameters.items()):
        return
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(drawn[name])


@contextmanager
def _registered(note: Callable[[nn.Module, str, nn.Parameter], Any]) -> Iterator[None]:
    """Calls a function with each parameter that a module is given; what it returns is taken."""

    def hook(module: nn.Module, name: str, parameter: Tensor | None) -> Any:
        return None if parameter is None else note(module, name, parameter)  # type: ignore[arg-type]

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
