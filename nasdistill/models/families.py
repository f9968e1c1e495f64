"""The families of architectures, and the building of their modules."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input, nearest
from nasdistill.models import libraries, mlp, mobile, pretrained, pruned, resnet, vit
from nasdistill.space import Architecture

Build: TypeAlias = Callable[[Architecture, Input, int], nn.Module]

FAMILIES: dict[str, Build] = {
    "mobile": mobile.build,
    "resnet": resnet.build,
    "vit": vit.build,
    "mlp": mlp.build,
    "pretrained": pretrained.build,
    "torchvision": libraries.build_torchvision,
    "timm": libraries.build_timm,
    "transformers": libraries.build_transformers,
    "pruned": pruned.build,
}
_USER_FAMILIES: dict[str, Build] = {}


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the module that an architecture describes.

    Args:
        architecture: A point of a space.
        input: The shape of an image.
        classes: Number of logits.

    Returns:
        A module from normalised float images `[B, C, H, W]` to logits `[B, classes]`.

    Raises:
        UserError: If the family is unknown, or its values are not what the family expects.
    """
    name, known = architecture.family, family_names()
    if name not in known:
        raise UserError(
            f"unknown family {name!r}{nearest(name, known)} (known: {', '.join(known)}); a family "
            "of your own comes with --import FILE.py"
        )
    where = f"architecture {architecture.fingerprint}: the family {name!r}"
    if name in _USER_FAMILIES:
        try:
            return _USER_FAMILIES[name](architecture, input, classes)
        except UserError:
            raise
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{where} of the --import file raised {type(error).__name__}: {error} "
                f"({line.filename}:{line.lineno})"
            ) from error
    try:
        return FAMILIES[name](architecture, input, classes)
    except KeyError as error:
        raise UserError(f"{where} needs the key {error}, which is not there") from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where} cannot be built from these values ({reason})") from None


def family_names() -> tuple[str, ...]:
    """Names of all families: ours, and those of the user's own file."""
    return (*FAMILIES, *_USER_FAMILIES)


def register_families(families: Mapping[str, Build]) -> None:
    """Adds a user's own families: `build(architecture, input, classes) -> nn.Module`."""
    _USER_FAMILIES.update(families)
