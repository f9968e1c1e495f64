"""A space of two of timm's tiny nets, with weights in files, for the small study."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from small_study import RECIPE, prepare

EFFICIENT, RESIDUAL = "timm:test_efficientnet", "timm:test_resnet"

SPACE = f"""\
name: own
family: pretrained
description: Two tiny nets.
parameters:
  model: {{choice: [{EFFICIENT}, {RESIDUAL}]}}
weights:
  {EFFICIENT}: weights/efficient.safetensors
  {RESIDUAL}: weights/residual.safetensors
"""

SEARCH = (
    RECIPE.replace("space: tiny.yaml", "space: own.yaml")
    .replace("trials: 7", "trials: 2")
    .replace("max_params: 10k", "max_params: 1M")
    .replace("min_accuracy: 0.5", "min_accuracy: 0.01")
)
"""A search of both, without stopping anything."""


def write_weights(path: Path, model: str, seed: int = 0, classes: int = 5) -> Path:
    """Writes weights that stand for pretrained ones: of other classes than the data's."""
    torch.manual_seed(seed)
    net = timm.create_model(model.removeprefix("timm:"), num_classes=classes)
    with torch.no_grad():
        for buffer in net.buffers():
            if buffer.is_floating_point():  # statistics unlike those of a new batch norm
                buffer.add_(0.1 * torch.rand_like(buffer))
    path.parent.mkdir(exist_ok=True)
    save_file(net.state_dict(), path)
    return path


def prepare_pretrained(folder: Path, recipe: str = SEARCH) -> Path:
    """Fills a folder with all that a small search of two pretrained nets needs."""
    prepare(folder, recipe)
    (folder / "own.yaml").write_text(SPACE)
    write_weights(folder / "weights" / "efficient.safetensors", EFFICIENT)
    write_weights(folder / "weights" / "residual.safetensors", RESIDUAL)
    return folder
