"""The weights of the libraries' own nets: where they come from, and whether they lie here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from nasdistill.common.errors import UserError
from nasdistill.common.types import nearest
from nasdistill.models.libraries import library
from nasdistill.models.pretrained import model_name

_HUB = "https://huggingface.co"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class OwnWeights(NamedTuple):
    """The weights that a library has for one of its nets.

    Attributes:
        address: Where they are fetched from.
        file: Where they lie on this machine; None if they do not.
    """

    address: str
    file: Path | None


def own_weights(model: str) -> OwnWeights:
    """Looks for the weights of a net; nothing is fetched.

    Args:
        model: `timm:NAME` or `torchvision:NAME`.

    Raises:
        UserError: If there is no such net, its library is not installed, or has no weights for it.
    """
    try:
        kind, name = model_name(model)
    except ValueError as error:
        raise UserError(str(error)) from None
    return {"timm": _of_timm, "torchvision": _of_torchvision}[kind](name)


def _of_timm(name: str) -> OwnWeights:
    timm = library("timm")
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f"timm has no pretrained weights for {name!r}")
    if not config.hf_hub_id:
        return _of_url(config.url)
    cached = library("huggingface_hub").try_to_load_from_cache
    paths = [cached(config.hf_hub_id, file) for file in _HUB_FILES]
    file = next((Path(path) for path in paths if isinstance(path, str)), None)
    return OwnWeights(f"{_HUB}/{config.hf_hub_id}/resolve/main/{_HUB_FILES[0]}", file)


def _of_torchvision(name: str) -> OwnWeights:
    models: Any = library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no image classifier {name!r}{nearest(name, known)}")
    return _of_url(models.get_model_weights(name).DEFAULT.url)


def _of_url(url: str) -> OwnWeights:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return OwnWeights(url, path if path.is_file() else None)
