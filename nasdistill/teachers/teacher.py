"""`Teacher`, and `load_teacher`, which makes one from a specification such as `timm:NAME`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input, nearest
from nasdistill.data import Dataset
from nasdistill.models import Classifier, artifact, hooks
from nasdistill.teachers.heads import reorder_head
from nasdistill.teachers.pretrained import (
    Pretrained,
    from_timm,
    from_torchvision,
    from_transformers,
)
from nasdistill.teachers.spec import Spec, parse
from nasdistill.teachers.weights import load_file, weights_hash

SHIPPED = Path(__file__).parent.parent / "assets" / "teacher"

AnswerPrecision = Literal["fp32", "bf16"]

KINDS: dict[str, Callable[[str, Path | None, int | None], Pretrained]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "transformers": from_transformers,
}

Functions = Mapping[str, Callable[..., Any]]


@dataclass
class Teacher:
    """A frozen model and all that it needs to be asked.

    Attributes:
        name: The specification it was made from.
        module: In eval mode, without gradients; takes uint8 images, or float ones in [0, 1],
            `[B, C, H, W]` at `input`, and gives logits `[B, classes]`. Normalises inside.
        input: Shape of the images that it is given: the data's channels, its own size.
        classes: Number of classes that it tells apart; may differ from the data's.
        weights_hash: 32 hex digits over its state dict.
        card: Where it came from, as JSON values.
        precision: `fp32`, or `bf16` for answers under autocast.
        code: What its forward pass is written in, where that is not nasdistill: a package with its
            version, or the fingerprint of the `--import` file.
    """

    name: str
    module: nn.Module
    input: Input
    classes: int
    weights_hash: str
    card: dict[str, Any]
    precision: AnswerPrecision = "fp32"
    code: str = ""

    @property
    def runs(self) -> bool:
        """Whether it can be asked anything new; a table of recorded answers cannot."""
        return bool(self.card.get("source") != "table")

    def must_run(self) -> Teacher:
        """Itself.

        Raises:
            UserError: If it is a table of recorded answers.
        """
        if not self.runs:
            raise UserError(
                f"teacher {self.name!r} is a table of recorded answers, which cannot be asked "
                "about other images"
            )
        return self

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images_BCHW: uint8, at the size of `input`, on the module's device.

        Returns:
            float32 `[B, classes]`.
        """
        with torch.inference_mode(), self._autocast(images_BCHW):
            logits_BK: Tensor = self.module(images_BCHW)
        return logits_BK.float().clone()  # outside, so that training may read it

    def outputs(self, images_BCHW: Tensor, layers: tuple[str, ...]) -> hooks.Outputs:
        """Logits with the outputs of some layers, for training to read.

        Args:
            images_BCHW: As for `logits`.
            layers: Names of modules, see `hooks.hooked`.
        """
        with torch.no_grad(), self._autocast(images_BCHW):
            return hooks.forward(self.module, images_BCHW, layers)

    def _autocast(self, images: Tensor) -> torch.autocast:
        bf16 = self.precision == "bf16"
        return torch.autocast(images.device.type, torch.bfloat16, enabled=bf16)


@dataclass(frozen=True)
class _Source:
    """A loaded source: a module that normalises inside, its size, class names and card."""

    module: nn.Module
    size: tuple[int, int]
    names: tuple[str, ...] | None
    card: dict[str, Any]
    exact: bool = False  # whether it was built for the data's classes
    code: str = ""


def load_teacher(
    spec: str,
    dataset: Dataset,
    *,
    device: torch.device,
    weights: str | Path | None = None,
    studies_root: Path = Path("studies"),
    imported: Functions | None = None,
    precision: AnswerPrecision = "fp32",
) -> Teacher:
    """Makes a frozen teacher.

    Args:
        spec: `shipped`, `folder:PATH`, `final:STUDY/RANK`, `torchvision:NAME`, `timm:NAME`,
            `transformers:NAME`, or the name of a function `name(classes, input) -> nn.Module` in
            `imported`, which takes images that are normalised as the data's. `,weights=PATH` and
            `,size=PIXELS` may follow.
        dataset: Data that it will be asked about: grey images are repeated for a teacher of colour,
            and classes of the same names in another order are put in the data's.
        device: Where it shall live.
        weights: The same as `weights=PATH` in `spec`.
        studies_root: The folder of all studies.
        imported: The functions of the user's own file, by name.
        precision: Of its answers.

    Raises:
        UserError: If the specification, a name in it, or the file is wrong, an optional package is
            missing, or the teacher cannot take the data's images.
    """
    parsed = parse(spec, weights)
    source = _find(parsed, dataset, studies_root, imported or {})
    module = source.module.to(device).eval().requires_grad_(False)
    shape = Input(dataset.input.channels, *source.size)
    classes = _try(module, shape, parsed.text, device)
    if source.exact and classes != len(dataset.classes):
        raise UserError(
            f"--teacher {parsed.text} gives {classes} logits, but the data {dataset.name!r} has "
            f"{len(dataset.classes)} classes"
        )
    card = {"name": parsed.text, "input": [shape.channels, *shape.size], **source.card}
    if source.names is not None and len(source.names) == classes:
        card["class_names"] = list(source.names)
        order = _order(source.names, dataset.classes)
        if order is not None:
            reorder_head(module, order)
            card["class_names"] = list(dataset.classes)
            card["classes_reordered"] = True
    return Teacher(
        parsed.text, module, shape, classes, weights_hash(module), card, precision, source.code
    )


def _find(parsed: Spec, dataset: Dataset, studies_root: Path, imported: Functions) -> _Source:
    if parsed.kind in KINDS:
        if not parsed.name:
            raise UserError(f"--teacher {parsed.text}: a model's name must follow the colon")
        return _pretrained(parsed, dataset)
    if not parsed.kind and parsed.name in imported:
        return _own(parsed, dataset, imported[parsed.name])
    if parsed.weights is not None or parsed.size is not None:
        known = ", ".join(f"{kind}:NAME" for kind in KINDS)
        raise UserError(
            f"--teacher {parsed.text}: weights and size go with {known} or a name from the "
            f"--import file{_also(imported)}"
        )
    if parsed.text == "shipped":
        return _folder(parsed, SHIPPED, dataset)
    if parsed.kind == "folder":
        return _folder(parsed, Path(parsed.name).expanduser(), dataset)
    if parsed.kind == "final":
        return _folder(parsed, _final(parsed, studies_root), dataset)
    return _unknown(parsed, imported)


def _unknown(parsed: Spec, imported: Functions) -> _Source:
    kinds = [*KINDS, "final", "folder"]
    name = parsed.kind or parsed.name
    hint = nearest(name, [*kinds, "auto", "shipped", *imported])
    forms = ", ".join(["auto", "shipped", *(f"{kind}:NAME" for kind in KINDS)])
    raise UserError(
        f"--teacher {parsed.text}: unknown teacher{hint}. Known: {forms}, final:STUDY/RANK, "
        f"folder:PATH, table:FILE, or a function of the --import file{_also(imported)}"
    )


def _also(imported: Functions) -> str:
    return f" ({', '.join(sorted(imported))})" if imported else ""


def _pretrained(parsed: Spec, dataset: Dataset) -> _Source:
    pretrained = KINDS[parsed.kind](parsed.name, parsed.weights, parsed.size)
    _check_channels(parsed, len(pretrained.mean), dataset)
    card = {
        "source": parsed.kind,
        "weights": pretrained.weights,
        "mean": list(pretrained.mean),
        "std": list(pretrained.std),
    }
    module = Classifier(pretrained.net, pretrained.mean, pretrained.std)
    code = f"{parsed.kind} {import_module(parsed.kind).__version__}"
    return _Source(module, pretrained.size, pretrained.names, card, code=code)


def _own(parsed: Spec, dataset: Dataset, build: Callable[..., Any]) -> _Source:
    where = f"--teacher {parsed.text}: {parsed.name}() of the --import file"
    size = (parsed.size, parsed.size) if parsed.size else dataset.input.size
    shape = Input(dataset.input.channels, *size)
    try:
        module = build(len(dataset.classes), shape)
    except Exception as error:
        raise UserError(f"{where} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{where} must return an nn.Module, but gave {type(module).__name__}")
    card: dict[str, Any] = {"source": "import", "weights": "as the function gave them"}
    mean, std = dataset.mean, dataset.std
    net = module.net if isinstance(module, Classifier) else module
    if parsed.weights is not None:
        loaded = load_file(net, parsed.weights, parsed.text, any_classes=False)
        card["weights"] = loaded.how
        if loaded.normalisation is not None:
            (mean, std), module = loaded.normalisation, net
    if not isinstance(module, Classifier):
        module = Classifier(module, mean, std)
    return _Source(module, size, None, card, exact=True)


def _final(parsed: Spec, studies_root: Path) -> Path:
    study, slash, rank = parsed.name.rpartition("/")
    if not slash or not study or not rank:
        raise UserError(f"--teacher {parsed.text}: write final:STUDY/RANK, such as final:first/1")
    if not (studies_root / study).is_dir():
        known = [p.parent.name for p in studies_root.glob("*/finals")]
        raise UserError(
            f"--teacher {parsed.text}: there is no study {study!r} in {studies_root}"
            f"{nearest(study, known)}"
        )
    folder = studies_root / study / "finals" / rank
    if not (folder / "architecture.json").is_file():
        ranks = sorted(p.parent.name for p in folder.parent.glob("*/architecture.json"))
        raise UserError(
            f"--teacher {parsed.text}: study {study!r} has no final {rank}; "
            + (f"it has {', '.join(ranks)}" if ranks else "it has none yet")
        )
    return folder


def _folder(parsed: Spec, folder: Path, dataset: Dataset) -> _Source:
    module, about = artifact.load(folder), artifact.read_input(folder)
    size, channels = (int(about["height"]), int(about["width"])), int(about["channels"])
    names = tuple(str(name) for name in about["classes"])
    _check_channels(parsed, channels, dataset)
    card: dict[str, Any] = {"source": parsed.kind or parsed.name, "folder": folder.name}
    if (folder / "metrics.json").is_file():
        card["trained"] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return _Source(module.float(), size, names, card)


def _check_channels(parsed: Spec, channels: int, dataset: Dataset) -> None:
    if channels < dataset.input.channels:
        raise UserError(
            f"--teacher {parsed.text} takes images of {channels} channel, the data "
            f"{dataset.name!r} has {dataset.input.channels}"
        )


def _try(module: nn.Module, shape: Input, text: str, device: torch.device) -> int:
    """Shows the module two blank images, and returns how many logits it gives."""
    blank = torch.zeros(2, shape.channels, *shape.size, dtype=torch.uint8, device=device)
    try:
        with torch.inference_mode():
            logits = module(blank)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        size = f"{shape.channels}x{shape.height}x{shape.width}"
        raise UserError(f"--teacher {text} cannot take images of {size}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"--teacher {text} must give logits [images, classes], but gave {got}")
    return int(logits.shape[1])


def _order(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[int] | None:
    """The place of each wanted class among `names`; None where there is nothing to reorder."""
    if names == tuple(wanted) or len(set(names)) != len(names) or set(names) != set(wanted):
        return None
    return [names.index(name) for name in wanted]
