"""The folder of a final: written whole, loaded without code, enough to classify a picture."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nasdistill.common.errors import DamagedFileError, UserError
from nasdistill.common.files import set_aside
from nasdistill.common.json_files import read_json
from nasdistill.common.types import Input
from nasdistill.data.pictures import FULL_DEPTH, UNREADABLE, Preparation
from nasdistill.models.classifier import Classifier
from nasdistill.models.export import export_onnx
from nasdistill.models.families import build, family_names
from nasdistill.models.limits import MOST_CLASSES, check_size, image_problem
from nasdistill.models.weights import check_weights, load_weights, read_weights
from nasdistill.space import Architecture


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a classifier, from which its module is built.

    Attributes:
        architecture: A point of a space.
        preparation: The way from a picture's file to what the model takes.
        classes: Names by label.
    """

    architecture: Architecture
    preparation: Preparation
    classes: tuple[str, ...]


def write_final(
    folder: Path,
    *,
    module: Classifier,
    spec: ModelSpec,
    metrics: Mapping[str, Any],
    card: str,
    onnx: Path | None = None,
    half: bool = False,
) -> None:
    """Writes a final's folder: whole, or not at all.

    Args:
        folder: The folder; must not exist, or be empty.
        module: The model, normalisation inside; it is moved to the CPU.
        spec: The specification that the model was built from.
        metrics: Content of metrics.json.
        card: Content of README.md.
        onnx: An ONNX file to copy as model.onnx; without it, one is exported.
        half: Whether weights are stored as float16.

    Raises:
        UserError: If the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not replaced")
    module = module.cpu().eval()
    texts = {
        "architecture.json": spec.architecture.to_json(),
        "input.json": json.dumps(describe_input(module, spec), indent=1),
        "metrics.json": json.dumps(metrics, indent=1),
        "README.md": card,
    }
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        (temporary / "model.safetensors").write_bytes(_serialised(module, half))
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if onnx is not None:
            shutil.copyfile(onnx, temporary / "model.onnx")
        else:
            export_onnx(module, spec.preparation.input, temporary / "model.onnx")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        temporary.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def describe_input(module: Classifier, spec: ModelSpec) -> dict[str, Any]:
    """The content of a final's input.json."""
    input = spec.preparation.input
    return {
        "channels": input.channels,
        "height": input.height,
        "width": input.width,
        **spec.preparation.describe(),
        "classes": list(spec.classes),
        "mean": module.mean.flatten().tolist(),
        "std": module.std.flatten().tolist(),
    }


def _serialised(module: Classifier, half: bool) -> bytes:
    from safetensors.torch import save

    weights = {k: v.contiguous() for k, v in module.state_dict().items()}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    content: bytes = save(weights)
    return content


def _sync(path: Path) -> None:
    """Has a file, or the names in a folder, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: str | Path) -> Classifier:
    """Loads a final: built from its architecture, never from code in the folder.

    Args:
        folder: A folder that `write_final` wrote.

    Returns:
        The classifier in eval mode, on the CPU.

    Raises:
        UserError: If a file is missing, broken, or belongs to another model.
    """
    folder = Path(folder)
    content = read_input(folder)
    architecture = Architecture.read(folder / "architecture.json")
    # A family of the user's own can be built only after --import has registered it.
    if architecture.family not in family_names():
        raise UserError(
            f"{folder}: family {architecture.family!r} is not one of ours "
            f"({', '.join(family_names())}), and a final never brings code; give the file that "
            "defines it with --import"
        )
    shape, classes, source = _input(content), len(content["classes"]), folder / "model.safetensors"
    mean, std = tuple(content["mean"]), tuple(content["std"])
    empty = check_size(architecture, shape, classes, str(folder / "architecture.json"))
    weights = read_weights(source)
    if empty is not None:  # before memory is taken for the module
        check_weights(Classifier(empty, mean, std), weights, str(source))
    module = Classifier(build(architecture, shape, classes), mean, std)
    load_weights(module, weights, str(source))
    _check_forward(module.eval(), shape, folder)
    return module


def _check_forward(module: Classifier, input: Input, folder: Path) -> None:
    """Runs a module on one blank image.

    Raises:
        UserError: If it cannot take it.
    """
    blank = torch.zeros(1, input.channels, *input.size, dtype=torch.uint8)
    try:
        with torch.inference_mode():
            module(blank)
    except RuntimeError as error:
        size = f"{input.channels}x{input.height}x{input.width}"
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: cannot take images of {size} ({reason})") from None


def load_or_set_aside(folder: Path, warn: Callable[[str], None]) -> Classifier | None:
    """Loads a model that we keep ourselves and can make again, such as an assistant.

    Args:
        folder: Its folder.
        warn: Told what is damaged and under which name it lies now.

    Returns:
        The classifier; None where there is none yet, or it was damaged and set aside.
    """
    if not folder.exists():
        return None
    try:
        return load(folder)
    except UserError as error:
        aside = set_aside(folder)
        warn(f"{error}; the folder was put aside as {aside.name}, and the model is made again")
        return None


def read_input(folder: Path) -> dict[str, Any]:
    """Reads a final's input.json: shape, range, resizing, class names, normalisation.

    Raises:
        UserError: If the file is missing, or a key is missing or of the wrong kind, or says a size
            beyond those of `models.limits`.
    """
    path = folder / "input.json"
    try:
        content = read_json(path, finite=True)
    except DamagedFileError as error:
        raise UserError(f"{path}: not a final's input.json ({error.reason})") from None
    problem = _problem_of(content) if isinstance(content, dict) else "an object is expected"
    if problem:
        raise UserError(f"{path}: not a final's input.json ({problem})")
    checked: dict[str, Any] = content
    return checked


def input_of(folder: Path) -> Input:
    """The image that a final takes.

    Raises:
        UserError: As of `read_input`.
    """
    return _input(read_input(folder))


def preparation_of(folder: Path) -> Preparation:
    """The way from a picture's file to what a final takes.

    Raises:
        UserError: As of `read_input`.
    """
    content = read_input(folder)
    input = _input(content)
    # Finals of earlier releases say neither; they saw what is said here.
    height, width = content.get("sizes", [input.size])[0]
    return Preparation(input.channels, input.size, (height, width), content.get("bits", FULL_DEPTH))


def _input(content: Mapping[str, Any]) -> Input:
    return Input(content["channels"], content["height"], content["width"])


def _problem_of(content: Mapping[str, Any]) -> str:
    """The first missing or wrong key of an input.json, in words; empty if there is none."""
    problem = image_problem(*map(content.get, ("channels", "height", "width")))
    if problem:
        return problem
    names = content.get("classes")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return f"classes: found {str(names)[:80]}, allowed: a list of names"
    if len(names) > MOST_CLASSES:
        return f"classes: found {len(names):,}, allowed: at most {MOST_CLASSES:,}"
    for key in ("mean", "std"):
        values = content.get(key)
        numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
        # Grey images are repeated for a network of colour: it normalises three channels.
        counts = (1, 3) if content["channels"] == 1 else (content["channels"],)
        if not numbers or len(content[key]) not in counts:
            return f"{key}: found {str(values)[:80]}, allowed: a number for each channel"
    if len(content["mean"]) != len(content["std"]):
        return "std: allowed: as many numbers as mean has"
    if type(content.get("bits", FULL_DEPTH)) is not int or not 8 <= content.get("bits", 8) <= 16:
        return f"bits: found {content['bits']!r}, allowed: 8 to 16"
    sizes = content.get("sizes", [[content["height"], content["width"]]])
    if not isinstance(sizes, list) or not 1 <= len(sizes) <= 2 or not all(map(_is_size, sizes)):
        return f"sizes: found {str(sizes)[:80]}, allowed: one or two of [height, width]"
    if sizes[-1] != [content["height"], content["width"]]:
        return f"sizes: found {sizes}, the last must be [height, width]"
    if not all(value > 0 for value in content["std"]):
        return f"std: found {str(content['std'])[:80]}, allowed: numbers above 0"
    return ""


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(x) is int and x > 0 for x in value)
    )


def classify(folder: str | Path, image: str | Path) -> list[tuple[str, float]]:
    """Classifies an image file with nothing but a final's folder.

    Args:
        folder: The final.
        image: Any file that Pillow reads; prepared as the pictures of the study's data were.

    Returns:
        `(class name, probability)`, most probable first.

    Raises:
        UserError: If the folder is no final, or the file no image.
    """
    from PIL import Image

    module, names = load(folder), read_input(Path(folder))["classes"]
    preparation = preparation_of(Path(folder))
    try:
        with Image.open(image) as opened:
            pixels = preparation.pixels(opened)
    except UNREADABLE as error:
        raise UserError(f"{image}: cannot be read as an image ({error})") from None
    with torch.inference_mode():
        logits = module(torch.from_numpy(pixels)[None])
    probabilities = logits.softmax(dim=1)[0]
    order = probabilities.argsort(descending=True).tolist()
    return [(names[i], float(probabilities[i])) for i in order]
