"""`Teacher`, and `load_teacher`, which makes one from a specification such as `timm:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasdistill.common.class_names import check_class_names
from nasdistill.common.errors import UserError
from nasdistill.common.json_files import read_json
from nasdistill.common.types import Input, nearest
from nasdistill.data import Dataset
from nasdistill.models import Classifier, artifact, hooks
from nasdistill.models.inference import WHOLE, Inference, set_layout
from nasdistill.space import Architecture
from nasdistill.teachers.classes import Assignment, assign_classes
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

LogitPrecision = Literal["fp32", "bf16"]

KINDS: dict[str, Callable[[str, Path | None, int | None], Pretrained]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "transformers": from_transformers,
}

TeacherBuilders = Mapping[str, Callable[..., Any]]
"""Functions of the user's own file that build a teacher's module, by name."""


@dataclass
class Teacher:
    """A frozen model, and all that is needed to run it.

    Attributes:
        name: The specification it was made from.
        module: In eval mode, without gradients; takes uint8 images, or float ones in [0, 1],
            `[B, C, H, W]` at `input`, and gives logits `[B, classes]`. Normalises inside.
        input: Shape of the images that it takes: the data's channels, its own size.
        classes: Number of its logits; may differ from the data's number of classes.
        weights_hash: 32 hex digits over its state dict.
        card: Its origin, as JSON values.
        precision: `fp32`, or `bf16` for logits under autocast.
        code: The origin of its forward pass, where that is not nasdistill: a package with its
            version, or the fingerprint of the `--import` file.
        notes: What the user should know of it, a sentence each.
        inference: The way it is run, see `use`; None until that is decided, and then `WHOLE`.
    """

    name: str
    module: nn.Module
    input: Input
    classes: int
    weights_hash: str
    card: dict[str, Any]
    precision: LogitPrecision = "fp32"
    code: str = ""
    notes: tuple[str, ...] = ()
    inference: Inference | None = None

    def use(self, inference: Inference) -> None:
        """Has it run in this way from now on: its numbers may differ in the last digits."""
        self.inference = inference
        set_layout(self.module, inference)

    @property
    def batch(self) -> int:
        """Most images that it is run on at once."""
        return (self.inference or WHOLE).batch

    @property
    def runs(self) -> bool:
        """Whether it can be run on any image; a table of recorded logits cannot."""
        return bool(self.card.get("source") != "table")

    def must_run(self) -> Teacher:
        """Returns itself.

        Raises:
            UserError: If it is a table of recorded logits.
        """
        if not self.runs:
            raise UserError(
                f"teacher {self.name!r} is a table of recorded answers, which cannot be asked "
                "about other images"
            )
        return self

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """The logits of some images.

        Args:
            images_BCHW: uint8, at the size of `input`, on the module's device; run in parts of
                `batch`.

        Returns:
            float32 `[B, classes]`.
        """
        with torch.inference_mode(), self._autocast(images_BCHW):
            parts = [self.module(part).float() for part in torch.split(images_BCHW, self.batch)]
        return torch.cat(parts).clone()  # outside, so that training may read it

    def outputs(self, images_BCHW: Tensor, layers: tuple[str, ...]) -> hooks.Outputs:
        """The logits of some images and the outputs of some layers, for training to read.

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
class _LoadedModule:
    """A teacher's module with the facts that its source states.

    Attributes:
        module: Normalises inside.
        size: Height and width that it takes, in pixels.
        names: Names of its classes, where known.
        card: See `Teacher`.
        built_for_data: Whether it was built for the data's classes.
        code: See `Teacher`.
    """

    module: nn.Module
    size: tuple[int, int]
    names: tuple[str, ...] | None
    card: dict[str, Any]
    built_for_data: bool = False
    code: str = ""


def load_teacher(
    spec: str,
    dataset: Dataset,
    *,
    device: torch.device,
    weights: str | Path | None = None,
    studies_root: Path = Path("studies"),
    imported: TeacherBuilders | None = None,
    precision: LogitPrecision = "fp32",
    classes: str | None = None,
) -> Teacher:
    """Makes a frozen teacher.

    Args:
        spec: `shipped`, `folder:PATH`, `final:STUDY/RANK`, `torchvision:NAME`, `timm:NAME`,
            `transformers:NAME`, or the name of a function `name(classes, input) -> nn.Module` in
            `imported`, which takes images that are normalised as the data's. `,weights=PATH` and
            `,size=PIXELS` may follow.
        dataset: The data that it will teach on: grey images are repeated for a teacher of colour,
            and classes of the same names in another order are put in the data's.
        device: The device of its module.
        weights: The same as `weights=PATH` in `spec`.
        studies_root: The folder of all studies.
        imported: The functions of the user's own file, by name.
        precision: Of its logits.
        classes: Which of its classes is which of the data's, see `classes.FORMS`; needed where its
            names are known and are others.

    Raises:
        UserError: If the specification, a name in it, or the file is wrong, an optional package is
            missing, the teacher cannot take the data's images, or its classes are others.
    """
    parsed = parse(spec, weights)
    loaded = _load_module(parsed, dataset, studies_root, imported or {})
    module = loaded.module.to(device).eval().requires_grad_(False)
    shape = Input(dataset.input.channels, *loaded.size)
    count = _count_logits(module, shape, parsed.text, device)
    if loaded.built_for_data and count != len(dataset.classes):
        raise UserError(
            f"--teacher {parsed.text} gives {count} logits, but the data {dataset.name!r} has "
            f"{len(dataset.classes)} classes"
        )
    card = {"name": parsed.text, "input": [shape.channels, *shape.size], **loaded.card}
    names = loaded.names if loaded.names is not None and len(loaded.names) == count else None
    if names is not None:
        check_class_names(f"--teacher {parsed.text}", names)
        card["class_names"] = list(names)
    assignment = _assign(parsed.text, names, count, dataset, classes)
    if assignment.order is not None:
        _reorder(module, assignment.order, shape, parsed.text, device)
        card["class_names"] = list(dataset.classes)
        card["classes_reordered"] = True
    notes = (assignment.note,) if assignment.note else ()
    digest = weights_hash(module)
    return Teacher(parsed.text, module, shape, count, digest, card, precision, loaded.code, notes)


def _assign(
    text: str,
    names: tuple[str, ...] | None,
    count: int,
    dataset: Dataset,
    classes: str | None,
) -> Assignment:
    """The place of the data's classes among the logits; none where a new head follows."""
    if count == len(dataset.classes):
        return assign_classes(text, names, dataset.name, dataset.classes, classes)
    if classes is not None:
        raise UserError(
            f"--classes {classes!r}: --teacher {text} tells {count} classes apart, the data "
            f"{dataset.name!r} has {len(dataset.classes)}; its head is replaced, so that there is "
            "nothing to assign. Leave --classes out"
        )
    return Assignment()


def _reorder(
    module: nn.Module, order: list[int], shape: Input, text: str, device: torch.device
) -> None:
    """Puts a teacher's classes in the data's order, and sees that its logits come out so.

    Raises:
        UserError: If they do not: the layer that was taken for its head does not give its logits.
    """
    generator = torch.Generator().manual_seed(0)
    size = (4, shape.channels, *shape.size)
    images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8).to(device)
    with torch.inference_mode():
        before = module(images).float()
    reorder_head(module, order)
    with torch.inference_mode():
        after = module(images).float()
    tolerance = 1e-3 * max(1.0, float(before.abs().max()))
    if not torch.allclose(after, before[:, order], rtol=0, atol=tolerance):
        raise UserError(
            f"--teacher {text}: its classes are in another order than the data's, and the layer "
            "that gives its logits was not found; give a teacher whose logits are in the data's "
            "order"
        )


def load_pretrained(spec: Spec, dataset: Dataset) -> Pretrained:
    """Loads a pretrained network that can take the data's images, its weights as they are.

    Raises:
        UserError: If the name or the file is wrong, an optional package is missing, or it takes
            grey images and the data have colours.
    """
    pretrained = KINDS[spec.kind](spec.name, spec.weights, spec.size)
    _check_channels(spec, len(pretrained.mean), dataset)
    return pretrained


def _load_module(
    spec: Spec, dataset: Dataset, studies_root: Path, imported: TeacherBuilders
) -> _LoadedModule:
    if spec.kind in KINDS:
        if not spec.name:
            raise UserError(f"--teacher {spec.text}: a model's name must follow the colon")
        return _pretrained(spec, dataset)
    if not spec.kind and spec.name in imported:
        return _from_builder(spec, dataset, imported[spec.name])
    if spec.weights is not None or spec.size is not None:
        known = ", ".join(f"{kind}:NAME" for kind in KINDS)
        raise UserError(
            f"--teacher {spec.text}: weights and size go with {known} or a name from the "
            f"--import file{_in_brackets(imported)}"
        )
    if spec.text == "shipped":
        return _from_folder(spec, SHIPPED, dataset)
    if spec.kind == "folder":
        return _from_folder(spec, Path(spec.name).expanduser(), dataset)
    if spec.kind == "final":
        return _from_folder(spec, folder_of_final(spec, studies_root), dataset)
    raise unknown_teacher(spec, imported)


def unknown_teacher(spec: Spec, imported: TeacherBuilders) -> UserError:
    """The error about a specification that names no teacher."""
    names = [*KINDS, "final", "folder", "auto", "shipped", *imported]
    hint = nearest(spec.kind or spec.name, names)
    forms = ", ".join(["auto", "shipped", *(f"{kind}:NAME" for kind in KINDS)])
    return UserError(
        f"{spec.flag} {spec.text}: unknown teacher{hint}. Known: {forms}, final:STUDY/RANK, "
        f"folder:PATH, table:FILE, or a function of the --import file{_in_brackets(imported)}"
    )


def _in_brackets(imported: TeacherBuilders) -> str:
    return f" ({', '.join(sorted(imported))})" if imported else ""


def _pretrained(spec: Spec, dataset: Dataset) -> _LoadedModule:
    pretrained = load_pretrained(spec, dataset)
    card = {
        "source": spec.kind,
        "weights": pretrained.weights,
        "mean": list(pretrained.mean),
        "std": list(pretrained.std),
    }
    module = Classifier(pretrained.net, pretrained.mean, pretrained.std)
    return _LoadedModule(module, pretrained.size, pretrained.names, card, code=_code_of(spec.kind))


def _from_builder(spec: Spec, dataset: Dataset, build: Callable[..., Any]) -> _LoadedModule:
    prefix = f"--teacher {spec.text}: {spec.name}() of the --import file"
    size = (spec.size, spec.size) if spec.size else dataset.input.size
    shape = Input(dataset.input.channels, *size)
    try:
        module = build(len(dataset.classes), shape)
    except Exception as error:
        raise UserError(f"{prefix} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{prefix} must return an nn.Module, but gave {type(module).__name__}")
    card: dict[str, Any] = {"source": "import", "weights": "as the function gave them"}
    mean, std = dataset.mean, dataset.std
    net = module.net if isinstance(module, Classifier) else module
    if spec.weights is not None:
        loaded = load_file(net, spec.weights, spec.text, any_classes=False)
        card["weights"] = loaded.description
        if loaded.normalisation is not None:
            (mean, std), module = loaded.normalisation, net
    if not isinstance(module, Classifier):
        if mean is dataset.mean and not dataset.has_training:
            raise UserError(
                f"{prefix} gave a module for images normalised as the training split, but the data "
                f"{dataset.name!r} have none: let it give a nasdistill.models.Classifier, whose "
                "mean and std are its own"
            )
        module = Classifier(module, mean, std)
    return _LoadedModule(module, size, None, card, built_for_data=True)


def folder_of_final(spec: Spec, studies_root: Path) -> Path:
    """The folder of a study's final.

    Raises:
        UserError: If there is none.
    """
    study, slash, rank = spec.name.rpartition("/")
    if not slash or not study or not rank:
        raise UserError(f"--teacher {spec.text}: write final:STUDY/RANK, such as final:first/1")
    if not (studies_root / study).is_dir():
        known = [p.parent.name for p in studies_root.glob("*/finals")]
        raise UserError(
            f"--teacher {spec.text}: there is no study {study!r} in {studies_root}"
            f"{nearest(study, known)}"
        )
    folder = studies_root / study / "finals" / rank
    if not (folder / "architecture.json").is_file():
        names = {path.parent.name for path in folder.parent.glob("*/architecture.json")}
        ranks = sorted(name for name in names if name.isdigit())  # others were put aside
        raise UserError(
            f"--teacher {spec.text}: study {study!r} has no final {rank}; "
            + (f"it has {', '.join(ranks)}" if ranks else "it has none yet")
        )
    return folder


def _from_folder(spec: Spec, folder: Path, dataset: Dataset) -> _LoadedModule:
    module, input = artifact.load(folder), artifact.read_input(folder)
    size, channels = (int(input["height"]), int(input["width"])), int(input["channels"])
    names = tuple(str(name) for name in input["classes"])
    family = Architecture.read(folder / "architecture.json").family
    _check_channels(spec, channels, dataset)
    card: dict[str, Any] = {"source": spec.kind or spec.name, "folder": folder.name}
    if (folder / "metrics.json").is_file():
        card["trained"] = read_json(folder / "metrics.json")
    return _LoadedModule(module.float(), size, names, card, code=_code_of(family))


def _code_of(family: str) -> str:
    """The library, with its version, that a module's forward pass comes from; empty if ours."""
    return f"{family} {import_module(family).__version__}" if family in KINDS else ""


def _check_channels(spec: Spec, channels: int, dataset: Dataset) -> None:
    if channels < dataset.input.channels:
        raise UserError(
            f"{spec.flag} {spec.text} takes images of {channels} channel, the data "
            f"{dataset.name!r} has {dataset.input.channels}"
        )


def _count_logits(module: nn.Module, shape: Input, text: str, device: torch.device) -> int:
    """Runs the module on two blank images, and counts its logits."""
    blank = torch.zeros(2, shape.channels, *shape.size, dtype=torch.uint8, device=device)
    try:
        with torch.inference_mode():
            logits = module(blank)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        size = f"{shape.channels}x{shape.height}x{shape.width}"
        raise UserError(f"--teacher {text} cannot take images of {size}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2:
        result = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"--teacher {text} must give logits [images, classes], but gave {result}")
    return int(logits.shape[1])
