"""The folder of a final: written whole, loaded without anybody's code, exported and verified."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasdistill.errors import UserError
from nasdistill.models import FAMILIES, Classifier, build
from nasdistill.options import Input
from nasdistill.space import Architecture

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verification:
    """What comparing an exported file with its module gave.

    Attributes:
        max_abs_difference: Largest difference between any two logits.
        ok: Whether it is within 1e-4.
    """

    max_abs_difference: float
    ok: bool


# -- export -------------------------------------------------------------------------------------


def quick_onnx(module: nn.Module, input: Input) -> bytes:
    """Exports for a measurement: a tenth of a second, by tracing.

    Args:
        module: Takes float images `[B, C, H, W]` in [0, 1], named `images`; gives `logits`.
        input: The image.

    Returns:
        An ONNX file with a dynamic batch.
    """
    buffer = io.BytesIO()
    with _evaluated(module), _silence():
        torch.onnx.export(
            module, (_example(module, input, 1),), buffer, dynamo=False,  # type: ignore[arg-type]
            input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip
    return buffer.getvalue()


def export_onnx(module: nn.Module, input: Input, path: Path) -> None:
    """Exports for shipping: one ONNX file with a dynamic batch, written atomically.

    The exporter that torch recommends is tried first; where it cannot export a module, tracing is.

    Args:
        module: See `quick_onnx`.
        input: The image.
        path: The file.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with _evaluated(module), _silence():
            batch = torch.export.Dim("batch", min=1, max=65536)
            program = torch.onnx.export(
                module, (_example(module, input, 2),), dynamo=True, verbose=False,
                input_names=["images"], output_names=["logits"],
                dynamic_shapes=({0: batch},), external_data=False,
            )  # fmt: skip
            assert program is not None
            program.save(str(temporary), external_data=False)
        if not verify_onnx(module, input, temporary).ok:
            raise RuntimeError("the exported file disagrees")
    except Exception:  # the exporter raises nearly anything
        temporary.write_bytes(quick_onnx(module, input))
    temporary.replace(path)


def export_program(module: nn.Module, input: Input, path: Path) -> None:
    """Exports with `torch.export`, dynamic batch, written atomically (`.pt2`)."""
    temporary = path.with_name(path.name + ".tmp.pt2")
    with _evaluated(module), _silence():
        batch = torch.export.Dim("batch", min=1, max=65536)
        program = torch.export.export(
            module, (_example(module, input, 2),), dynamic_shapes=({0: batch},)
        )
        torch.export.save(program, temporary)
    temporary.replace(path)


def verify_onnx(
    module: nn.Module, input: Input, path: Path, *, batches: Sequence[int] = (1, 7)
) -> Verification:
    """Runs an ONNX file in ONNX Runtime beside its module, on random images.

    Args:
        module: What was exported.
        input: The image.
        path: The file.
        batches: Batch sizes to try.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    with _evaluated(module), torch.inference_mode():
        for batch in batches:
            images = torch.rand(batch, input.channels, *input.size, generator=generator)
            ours = module(images.to(_device_of(module))).float().cpu().numpy()
            (theirs,) = session.run(None, {name: images.numpy()})
            worst = max(worst, float(np.abs(ours - theirs).max()))
    return Verification(worst, worst <= TOLERANCE)


def _example(module: nn.Module, input: Input, batch: int) -> Tensor:
    return torch.rand(batch, input.channels, *input.size, device=_device_of(module))


def _device_of(module: nn.Module) -> torch.device:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextlib.contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporters' chatter from the user."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


# -- the folder of a final ----------------------------------------------------------------------


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
        folder: Where; must not exist.
        module: The model, normalisation inside.
        architecture: What it was built from.
        input: The image.
        classes: Names by label.
        metrics: Content of metrics.json.
        card: Content of README.md.
        onnx: An ONNX file to move in as model.onnx; without it, one is exported.
        half: Whether weights are stored as float16.
    """
    from safetensors.torch import save_file

    module = module.cpu().eval()
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.contiguous() for k, v in module.state_dict().items()}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(weights, temporary / "model.safetensors")
    about = {
        "channels": input.channels, "height": input.height, "width": input.width,
        "range": [0, 1], "resize": "bilinear", "classes": list(classes),
        "mean": module.mean.flatten().tolist(), "std": module.std.flatten().tolist(),
    }  # fmt: skip
    (temporary / "architecture.json").write_text(architecture.to_json())
    (temporary / "input.json").write_text(json.dumps(about, indent=1))
    (temporary / "metrics.json").write_text(json.dumps(metrics, indent=1))
    (temporary / "README.md").write_text(card)
    if onnx is not None:
        shutil.copyfile(onnx, temporary / "model.onnx")
    else:
        export_onnx(module, input, temporary / "model.onnx")
    for path in temporary.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    temporary.rename(folder)


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
    text = _read(folder / "architecture.json")
    architecture = Architecture.from_json(text)
    given = Input(about["channels"], about["height"], about["width"])
    if architecture.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        # A family of the user's own can be built only after --import has registered it.
        try:
            net = build(architecture, given, len(about["classes"]))
        except UserError:
            raise UserError(
                f"{folder}: family {architecture.family!r} is not one of ours ({known}), and a "
                "final never brings code; give the file that defines it with --import"
            ) from None
    else:
        net = build(architecture, given, len(about["classes"]))
    module = Classifier(net, tuple(about["mean"]), tuple(about["std"]))
    weights = read_weights(folder / "model.safetensors")
    load_weights(module, weights, str(folder / "model.safetensors"))
    return module.eval()


def read_input(folder: Path) -> dict[str, Any]:
    """Reads a final's input.json: shape, range, resizing, class names, normalisation."""
    try:
        about: dict[str, Any] = json.loads(_read(folder / "input.json"))
        Input(about["channels"], about["height"], about["width"])
        len(about["classes"]), tuple(about["mean"]), tuple(about["std"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'input.json'}: not a final's input.json ({error})") from None
    return about


def classify(folder: str | Path, image: str | Path) -> list[tuple[str, float]]:
    """Classifies an image file with nothing but a final's folder.

    Args:
        folder: The final.
        image: Any file that Pillow reads.

    Returns:
        `(class name, probability)`, most probable first.
    """
    from PIL import Image

    module, about = load(folder), read_input(Path(folder))
    try:
        with Image.open(image) as opened:
            shown = opened.convert("L" if about["channels"] == 1 else "RGB")
            size = (about["width"], about["height"])
            pixels = np.asarray(shown.resize(size, Image.Resampling.BILINEAR))
    except OSError as error:
        raise UserError(f"{image}: cannot be read as an image ({error})") from None
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    with torch.inference_mode():
        logits = module(torch.from_numpy(planes.copy())[None])
    ranked = logits.softmax(dim=1)[0]
    order = ranked.argsort(descending=True).tolist()
    return [(about["classes"][i], float(ranked[i])) for i in order]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None


# -- weights ------------------------------------------------------------------------------------


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads tensors by name from safetensors, or from a `torch.save` file without code in it.

    Raises:
        UserError: If the file is missing, truncated, or a pickle that would run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: truncated, or not safetensors ({error})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: a pickle that holds more than tensors; it is not loaded, because it could "
            "run code. Save a state_dict, best as safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: truncated, or not a file of weights ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state_dict (tensors by name)")
    return dict(content)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Puts tensors into a module, all of them and no others.

    Args:
        module: Where to.
        weights: Tensors by name; half precision is widened.
        source: What errors call it.

    Raises:
        UserError: Naming what is missing, what is too much, and which shapes differ.
    """
    ours = module.state_dict()
    missing = [k for k in ours if k not in weights]
    extra = [k for k in weights if k not in ours]
    shapes = [
        f"{k} is {tuple(weights[k].shape)}, expected {tuple(ours[k].shape)}"
        for k in ours
        if k in weights and weights[k].shape != ours[k].shape
    ]
    problems = [("missing", missing), ("unknown", extra), ("other shapes", shapes)]
    told = [
        f"{what}: {', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}"
        for what, found in problems
        if found
    ]
    if told:
        raise UserError(
            f"{source}: weights of another architecture or other classes ({'; '.join(told)})"
        )
    module.load_state_dict({k: v.to(ours[k].dtype) for k, v in weights.items()})
