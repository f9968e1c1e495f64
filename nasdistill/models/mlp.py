"""Multi-layer perceptrons on the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nasdistill.models.layers import ACTIVATIONS
from nasdistill.options import Input


def build(values: Mapping[str, Any], input: Input, classes: int) -> nn.Module:
    """Builds a network of the family.

    Args:
        values: `activation`, `dropout` (a probability) and `layers`: `type` names their number
            (`one`, `two`, `three`), `widths` their widths.
        input: The image.
        classes: Number of logits.
    """
    act = ACTIVATIONS[values["activation"]]
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    width = input.channels * input.height * input.width
    for index, hidden in enumerate(values["layers"]["widths"]):
        net.add_module(f"linear{index}", nn.Linear(width, int(hidden)))
        net.add_module(f"activation{index}", act())
        if values["dropout"]:
            net.add_module(f"dropout{index}", nn.Dropout(float(values["dropout"])))
        width = int(hidden)
    net.add_module("head", nn.Linear(width, classes))
    return net
