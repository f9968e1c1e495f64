"""The architecture of a teacher, without its weights: what students are cut from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nasdistill.common.errors import UserError
from nasdistill.common.types import nearest
from nasdistill.models.libraries import library
from nasdistill.models.pruned import IMPORTED
from nasdistill.space import Architecture
from nasdistill.teachers.pretrained import from_transformers
from nasdistill.teachers.spec import Spec, parse
from nasdistill.teachers.teacher import SHIPPED, TeacherBuilders, folder_of_final, unknown_teacher


def base_architecture(
    text: str, *, studies_root: Path, imported: TeacherBuilders, flag: str = "--teacher"
) -> Architecture:
    """The architecture that a teacher's specification names.

    Args:
        text: As `--teacher` takes it.
        studies_root: Folder of studies, for `final:STUDY/RANK`.
        imported: The functions of the user's own file, by name.
        flag: Where it was given.

    Raises:
        UserError: If there is no such net, or none that students can be cut from.
    """
    spec = parse(text, None, flag)
    if spec.kind == "table":
        raise UserError(
            f"{flag} {spec.text}: a table of recorded answers has no net that students could be "
            "cut from; name one as `base:` in the space's YAML, such as base: timm:resnet50"
        )
    if spec.kind in ("timm", "torchvision"):
        return Architecture(spec.kind, {"name": _known(spec)})
    if spec.kind == "transformers":
        values = from_transformers(spec.name, spec.weights, spec.size).values
        return Architecture(spec.kind, values)
    if not spec.kind and spec.name in imported:
        return Architecture(IMPORTED, {"name": spec.name})
    if spec.text in ("shipped", "auto", ""):
        return Architecture.read(SHIPPED / "architecture.json")
    if spec.kind == "folder":
        return _of_folder(spec, Path(spec.name).expanduser())
    if spec.kind == "final":
        return _of_folder(spec, folder_of_final(spec, studies_root))
    raise unknown_teacher(spec, imported)


def _known(spec: Spec) -> str:
    """The name of a model that a library holds.

    Raises:
        UserError: If it holds none of that name.
    """
    name, package = spec.name, library(spec.kind)
    known: Collection[str]
    if spec.kind == "timm":
        if package.is_model(name):
            return name
        known = package.list_models()
    else:
        known = package.models.list_models(module=package.models)
        if name in known:
            return name
    raise UserError(f"{spec.flag} {spec.text}: {spec.kind} has no {name!r}{nearest(name, known)}")


def _of_folder(spec: Spec, folder: Path) -> Architecture:
    path = folder / "architecture.json"
    if not path.is_file():
        raise UserError(f"{spec.flag} {spec.text}: there is no {path}")
    return Architecture.read(path)
