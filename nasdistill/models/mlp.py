"""Multi-layer perceptrons on the pixels."""

from __future__ import annotations

from torch import nn

from nasdistill.common.types import Input
from nasdistill.models.layers import ACTIVATIONS, LARGEST, MOST_BLOCKS, in_bounds
from nasdistill.space import Architecture


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds a network of the family.

    Args:
        architecture: Its values are `activation`, `dropout` (a probability) and `layers`: `type`
            names their number (`one`, `two`, `three`), `widths` their widths.
        input: The image.
        classes: Number of logits.
    """
    values = architecture.values
    act = ACTIVATIONS[values["activation"]]
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    width = input.channels * input.height * input.width
    widths = values["layers"]["widths"]
    in_bounds("number of widths", len(widths), 0, MOST_BLOCKS)
    for index, value in enumerate(widths):
        hidden = in_bounds("width", value, 1, LARGEST)
        net.add_module(f"linear{index}", nn.Linear(width, hidden))
        net.add_module(f"activation{index}", act())
        if values["dropout"]:
            net.add_module(f"dropout{index}", nn.Dropout(float(values["dropout"])))
        width = hidden
    net.add_module("head", nn.Linear(width, classes))
    return net
