"""The folder of a final: written whole, loaded without code, enough to classify a picture."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.classifier import Classifier
from nasdistill.models.export import export_onnx
from nasdistill.models.families import build, families
from nasdistill.models.weights import load_weights, read_weights
from nasdistill.space import Architecture


def write_final(
    folder: Path,
    *,
    module: Classifier,
    architecture: Architecture,
    input: Input,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
    card: str,
    onnx: Path | None = None,
    half: bool = False,
) -> None:
    """Writes a final's folder: whole, or not at all.

    Args:
        folder: Where; must not exist, or be empty.
        module: The model, normalisation inside; it is moved to the CPU.
        architecture: What it was built from.
        input: The image.
        classes: Names by label.
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
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    about = {
        "channels": input.channels,
        "height": input.height,
        "width": input.width,
        "range": [0, 1],
        "resize": "bilinear",
        "classes": list(classes),
        "mean": module.mean.flatten().tolist(),
        "std": module.std.flatten().tolist(),
    }
    try:
        (temporary / "model.safetensors").write_bytes(_packed(module, half))
        (temporary / "architecture.json").write_text(architecture.to_json(), encoding="utf-8")
        (temporary / "input.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        (temporary / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if onnx is not None:
            shutil.copyfile(onnx, temporary / "model.onnx")
        else:
            export_onnx(module, input, temporary / "model.onnx")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        temporary.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _packed(module: Classifier, half: bool) -> bytes:
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
        folder: What `write_final` wrote.

    Returns:
        The classifier in eval mode, on the CPU.

    Raises:
        UserError: If a file is missing, broken, or belongs to another model.
    """
    folder = Path(folder)
    about = read_input(folder)
    architecture = Architecture.from_json(_read(folder / "architecture.json"))
    given = Input(about["channels"], about["height"], about["width"])
    # A family of the user's own can be built only after --import has registered it.
    if architecture.family not in families():
        raise UserError(
            f"{folder}: family {architecture.family!r} is not one of ours "
            f"({', '.join(families())}), and a final never brings code; give the file that "
            "defines it with --import"
        )
    net = build(architecture, given, len(about["classes"]))
    module = Classifier(net, tuple(about["mean"]), tuple(about["std"]))
    weights = read_weights(folder / "model.safetensors")
    load_weights(module, weights, str(folder / "model.safetensors"))
    return module.eval()


def read_input(folder: Path) -> dict[str, Any]:
    """Reads a final's input.json: shape, range, resizing, class names, normalisation.

    Raises:
        UserError: If the file is missing, or a key is missing or of the wrong kind.
    """
    path = folder / "input.json"
    try:
        about = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a final's input.json ({error})") from None
    wrong = "an object is expected" if not isinstance(about, dict) else _wrong_key(about)
    if wrong:
        raise UserError(f"{path}: not a final's input.json ({wrong})")
    found: dict[str, Any] = about
    return found


def input_of(folder: Path) -> Input:
    """The image that a final takes.

    Raises:
        UserError: As of `read_input`.
    """
    about = read_input(folder)
    return Input(about["channels"], about["height"], about["width"])


def _wrong_key(about: Mapping[str, Any]) -> str:
    for key in ("channels", "height", "width"):
        if type(about.get(key)) is not int or about[key] < 1:
            return f"{key}: found {about.get(key)!r}, allowed: a whole number from 1"
    names = about.get("classes")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return f"classes: found {str(names)[:80]}, allowed: a list of names"
    for key in ("mean", "std"):
        values = about.get(key)
        numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
        if not numbers or len(about[key]) != about["channels"]:
            return f"{key}: found {str(values)[:80]}, allowed: a number for each channel"
    return ""


def classify(folder: str | Path, image: str | Path) -> list[tuple[str, float]]:
    """Classifies an image file with nothing but a final's folder.

    Args:
        folder: The final.
        image: Any file that Pillow reads.

    Returns:
        `(class name, probability)`, most probable first.

    Raises:
        UserError: If the folder is no final, or the file no image.
    """
    from PIL import Image

    module, about = load(folder), read_input(Path(folder))
    try:
        with Image.open(image) as opened:
            shown = opened.convert("L" if about["channels"] == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{image}: cannot be read as an image ({error})") from None
    size = (about["width"], about["height"])
    pixels = np.asarray(shown.resize(size, Image.Resampling.BILINEAR))
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    with torch.inference_mode():
        logits = module(torch.from_numpy(planes.copy())[None])
    ranked = logits.softmax(dim=1)[0]
    order = ranked.argsort(descending=True).tolist()
    return [(about["classes"][i], float(ranked[i])) for i in order]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
