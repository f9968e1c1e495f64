"""Pretrained image classifiers of torchvision, timm and transformers.

Each function returns a network that takes normalised float images and gives logits, with the
normalisation and image size that its weights were trained for.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.json_files import read_json
from nasdistill.common.types import nearest
from nasdistill.models.libraries import (
    LogitsOnly,
    check_config,
    read_config,
    timm_net,
    torchvision_net,
)
from nasdistill.models.limits import bounded, check_parameters
from nasdistill.models.weights import pickle_refused, read_weights
from nasdistill.teachers.heads import head_of
from nasdistill.teachers.weights import Normalisation, load_file, load_state

T = TypeVar("T")


@dataclass(frozen=True)
class Pretrained:
    """A network, and the images that it takes.

    Attributes:
        net: Normalised float `[B, C, H, W]` -> logits `[B, classes]`.
        mean: By channel, of images in [0, 1].
        std: By channel, of images in [0, 1].
        size: Height and width that it takes, in pixels.
        names: Names of its classes, where known.
        weights: The origin of its weights, in words.
        values: Those of an architecture of the library's family (`models.libraries`) that builds
            the network again without the library's weights.
    """

    net: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    names: tuple[str, ...] | None
    weights: str
    values: Mapping[str, Any]


def from_torchvision(name: str, weights: Path | None, size: int | None) -> Pretrained:
    """A classifier of torchvision, with its default weights or a file's.

    Args:
        name: As `torchvision.models.list_models` gives it, such as `resnet18`.
        weights: A state dict; None downloads torchvision's own.
        size: Pixels; None for those that the weights were trained at.

    Raises:
        UserError: If the name is unknown or the weights cannot be had.
    """
    models: Any = import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no image classifier {name!r}{nearest(name, known)}")
    default = models.get_model_weights(name).DEFAULT
    transforms, categories = default.transforms(), default.meta["categories"]
    pixels = size or int(transforms.crop_size[0])
    net = torchvision_net(name, len(categories), pixels)
    pretrained = Pretrained(
        net,
        tuple(transforms.mean),
        tuple(transforms.std),
        (pixels, pixels),
        tuple(categories),
        f"torchvision {default}",
        {"name": name},
    )
    spec = f"torchvision:{name}"
    if weights is not None:
        return _with_file(pretrained, weights, spec)
    # Read with `weights_only`, which torchvision's own loading does not ask for.
    state = _fetched(spec, lambda: default.get_state_dict(check_hash=True, weights_only=True))
    load_state(net, state, default.url, spec)
    return pretrained


def from_timm(name: str, weights: Path | None, size: int | None) -> Pretrained:
    """A classifier of timm, with its pretrained weights or a file's.

    Args:
        name: As `timm.list_models` gives it, with or without a tag, or `hf-hub:…`.
        weights: A state dict; None downloads timm's.
        size: Pixels; None for those that the weights were trained at.

    Raises:
        UserError: If timm is not installed, the name is unknown or the weights cannot be had.
    """
    try:
        timm: Any = import_module("timm")
    except ImportError as error:
        raise _missing_package("timm", name) from error
    if ":" not in name and not timm.is_model(name):
        known = {*timm.list_models(), *timm.list_pretrained()}
        raise UserError(f"timm has no model {name!r}{nearest(name, known)}")
    spec = f"timm:{name}"
    net = _fetched(spec, lambda: timm_net(name, size, pretrained=weights is None))
    if getattr(net, "num_classes", 0) < 1:
        raise UserError(f"{spec} gives features, it has no classification head")
    config = timm.data.resolve_model_data_config(net)
    height, width = (size, size) if size else config["input_size"][1:]
    pretrained = Pretrained(
        net,
        tuple(config["mean"]),
        tuple(config["std"]),
        (height, width),
        _timm_names(net),
        f"timm {timm.__version__} {name}",
        {"name": name},
    )
    return pretrained if weights is None else _with_file(pretrained, weights, spec)


def from_transformers(name: str, weights: Path | None, size: int | None) -> Pretrained:
    """An image classifier of transformers, with its pretrained weights or a file's.

    Args:
        name: A name on the Hugging Face hub, or a local folder written by `save_pretrained`.
        weights: A state dict; None takes the folder's, or downloads them.
        size: Pixels; None for those that the image processor gives.

    Raises:
        UserError: If transformers is not installed, the name is unknown, the model is no image
            classifier, or the weights or the image processor cannot be had.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise _missing_package("transformers", name) from error
    spec = f"transformers:{name}"
    if name.startswith((".", "/", "~")):
        name = str(Path(name).expanduser())
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{spec}: the folder {name} has no config.json")
    auto: Any = transformers.AutoModelForImageClassification
    config = _config_of(spec, name, transformers.AutoConfig)
    _check_size(spec, auto, config)
    if weights is None:
        _check_pickles(Path(name))
        model, info = _fetched(spec, lambda: auto.from_pretrained(name, output_loading_info=True))
        absent = sorted(info["missing_keys"])
        if absent:
            raise UserError(
                f"{spec}: the weights lack {len(absent)} tensors, e.g. {absent[0]}; choose a model "
                "that was trained as an image classifier"
            )
    else:
        model = _fetched(spec, lambda: auto.from_config(config))
    images = _images_of(_processor(spec, name))
    labels = [str(label) for _, label in sorted(model.config.id2label.items())]
    named = not all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    pretrained = Pretrained(
        LogitsOnly(model),
        images.normalisation.mean,
        images.normalisation.std,
        (size, size) if size else images.size,
        tuple(labels) if named else None,
        f"transformers {transformers.__version__} {name}",
        {"config": _described(model.config)},
    )
    return pretrained if weights is None else _with_file(pretrained, weights, spec)


def _config_of(spec: str, name: str, auto: Any) -> Any:
    """A model's configuration; that of a folder is checked before the library reads it.

    Raises:
        UserError: If it cannot be had, is none, or asks for what no memory holds.
    """
    path = Path(name) / "config.json"
    if not path.is_file():
        return _fetched(spec, lambda: auto.from_pretrained(name))
    try:
        config = read_json(path)
        if not isinstance(config, dict):
            raise DamagedFileError(str(path), "an object is expected")
        check_config(config)
        return read_config(lambda: auto.from_pretrained(name))
    except (DamagedFileError, ValueError) as error:
        reason = error.reason if isinstance(error, DamagedFileError) else error
        raise UserError(f"{spec}: {path}: {reason}") from None


def _check_size(spec: str, auto: Any, config: Any) -> None:
    """Builds a configuration's model on the meta device, and checks what it would take.

    Raises:
        UserError: If it cannot be built, or is larger than `models.limits` allows.
    """
    try:
        with torch.device("meta"), bounded(spec):
            module = auto.from_config(config, trust_remote_code=False)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(f"{spec}: its config.json describes no classifier ({reason})") from None
    check_parameters(module, spec)


def _check_pickles(folder: Path) -> None:
    """Reads the weights of a local folder that are no safetensors, as `--weights` reads a file.

    Raises:
        UserError: If there are any, and one is damaged or could run code.
    """
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        for path in sorted(folder.glob("pytorch_model*.bin")):
            read_weights(path)


def _with_file(pretrained: Pretrained, path: Path, spec: str) -> Pretrained:
    """The same network with the weights of a file."""
    net = pretrained.net
    classes = head_of(net).layer.weight.shape[0]
    loaded = load_file(net.model if isinstance(net, LogitsOnly) else net, path, spec)
    mean, std = loaded.normalisation or (pretrained.mean, pretrained.std)
    names = pretrained.names if head_of(net).layer.weight.shape[0] == classes else None
    return replace(pretrained, mean=mean, std=std, names=names, weights=loaded.description)


def _timm_names(net: nn.Module) -> tuple[str, ...] | None:
    names = getattr(net, "pretrained_cfg", {}).get("label_names")
    return tuple(str(name) for name in names) if names else None


def _described(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, without its classes' names."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    for key in ("id2label", "label2id", "_name_or_path", "architectures", "auto_map"):
        values.pop(key, None)
    return values


def _processor(spec: str, name: str) -> Any:
    try:
        return import_module("transformers").AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{spec}: there is no image processor (preprocessor_config.json), so the normalisation "
            "is not known; write it with `processor.save_pretrained(FOLDER)`"
        ) from error


class _Images(NamedTuple):
    """The images that a processor makes: their normalisation, and height and width in pixels."""

    normalisation: Normalisation
    size: tuple[int, int]


def _images_of(processor: Any) -> _Images:
    """Finds normalisation and size by giving the processor a black and a white image.

    A processor changes a colour by an affine function by channel, however its options spell it.
    """
    import numpy as np

    images = [np.full((256, 256, 3), value, dtype=np.uint8) for value in (0, 255)]
    black, white = (
        torch.as_tensor(np.asarray(processor(images=image, return_tensors="np")["pixel_values"]))[0]
        for image in images
    )
    low_C, high_C = black.double().mean(dim=(1, 2)), white.double().mean(dim=(1, 2))
    std_C = 1 / (high_C - low_C)
    mean_C = -low_C * std_C
    height, width = black.shape[1:]
    mean, std = (tuple(round(v, 7) for v in values.tolist()) for values in (mean_C, std_C))
    return _Images(Normalisation(mean, std), (int(height), int(width)))


def _fetched(spec: str, fetch: Callable[[], T]) -> T:
    """Calls `fetch`; turns its errors into one clear message."""
    # The hub's client logs each of its tries; the message below says enough.
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        return fetch()
    except pickle.UnpicklingError:
        raise pickle_refused(f"the pretrained weights of {spec} are") from None
    except (OSError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"the pretrained weights of {spec} cannot be had: {lines[0] if lines else error!r} "
            f"Check the name and the connection, or give a file: {spec},weights=PATH"
        ) from error
    finally:
        hub.setLevel(level)


def _missing_package(package: str, name: str) -> UserError:
    return UserError(
        f"{package}:{name} needs the package {package}, which is not installed; "
        f"run `pip install 'nasdistill[{package}]'`"
    )
