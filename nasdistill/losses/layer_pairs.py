"""Pairs of layers, of the student and of its teacher, and the shape in which they are compared."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.options import Combine, LayerPairs
from nasdistill.losses.term import Term
from nasdistill.models.hooks import LayerError, ModelSummary, Outputs, is_channels_last

Resize = Literal["pool", "bilinear"]

SMALL, LARGE = 1 / 20, 1 / 5
"""Shares of the teacher's parameters below which a student is small, and from which it is large."""

Layer = TypeVar("Layer")


@dataclass(frozen=True)
class Pair:
    """A student's layer and the teacher's layers that it learns from.

    Attributes:
        student: Name of the student's layer.
        teachers: Names of the teacher's layers.
        student_shape: Shape of the student's output, without the batch.
        teacher_shapes: Shapes of the teacher's outputs.
        student_special: Special tokens before the patches in the student's output.
        teacher_special: Those in the teacher's outputs; none in any if empty.
        kept: int64 on the models' device: the channels of the teacher's layer that the student's
            are compared with, where it was cut from that; None for all.
        matched: Whether the student was cut from the teacher, and this is the same layer of both.
    """

    student: str
    teachers: tuple[str, ...]
    student_shape: tuple[int, ...]
    teacher_shapes: tuple[tuple[int, ...], ...]
    student_special: int = 0
    teacher_special: tuple[int, ...] = ()
    kept: Tensor | None = field(default=None, compare=False)
    matched: bool = False

    @classmethod
    def of(
        cls, student: ModelSummary, layer: str, teacher: ModelSummary, layers: tuple[str, ...]
    ) -> Pair:
        """The pair of these layers of two models, with all channels."""
        return cls(
            layer,
            layers,
            student.shapes[layer],
            tuple(teacher.shapes[name] for name in layers),
            student.special_tokens(layer),
            tuple(teacher.special_tokens(name) for name in layers),
        )

    @property
    def has_equal_tokens(self) -> bool:
        """Whether all outputs are tokens of the same number, with as many special ones."""
        own = (len(self.student_shape), self.student_shape[0], self.student_special)
        theirs = zip(self.teacher_shapes, self._teacher_special, strict=True)
        return own[0] == 2 and all((len(s), s[0], special) == own for s, special in theirs)

    @property
    def places(self) -> int:
        """Number of places at which the outputs are compared, the larger map pooled."""
        if self.has_equal_tokens:
            return self.student_shape[0]
        teacher = map_shape(self.teacher_shapes[0], self._teacher_special[0])
        sides = zip(
            map_shape(self.student_shape, self.student_special)[1:], teacher[1:], strict=True
        )
        return math.prod(min(a, b) for a, b in sides)

    @property
    def _teacher_special(self) -> tuple[int, ...]:
        return self.teacher_special or (0,) * len(self.teachers)

    def maps(
        self, student: Tensor, teachers: Sequence[Tensor], combine: Combine
    ) -> tuple[Tensor, Tensor]:
        """Both sides as float32 maps; several of the teacher's at the size of the first.

        Equal tokens on both sides stay as they are, special ones included.

        Args:
            student: Output of the student's layer.
            teachers: Outputs of the teacher's layers.
            combine: How several of these become one.

        Returns:
            The student's map, and the teacher's.
        """
        if self.has_equal_tokens:
            student_map, *teacher_maps = (
                x.transpose(1, 2)[..., None] for x in (student, *teachers)
            )
        else:
            student_map = as_map(student, self.student_special)
            outputs = zip(teachers, self._teacher_special, strict=True)
            teacher_maps = [as_map(x, special) for x, special in outputs]
        size = teacher_maps[0].shape[-2:]
        sized = [resized(x.float(), size, "pool") for x in teacher_maps]
        if len(sized) == 1:
            all_kept = sized[0] if self.kept is None else sized[0].index_select(1, self.kept)
            return student_map.float(), all_kept
        joined = torch.cat(sized, dim=1) if combine == "concat" else torch.stack(sized).mean(dim=0)
        return student_map.float(), joined


def by_depth(
    student: Sequence[Layer], teacher: Sequence[Layer], share: float
) -> list[tuple[Layer, Layer]]:
    """Pairs layers by relative depth, and keeps those that suit the student's size.

    A small student is taught at its first third, where it can still follow; a middle-sized one in
    the middle; a large one at its first and last layer.

    Args:
        student: The student's layers, from shallow to deep.
        teacher: The teacher's.
        share: The student's parameters ÷ the teacher's.

    Returns:
        Pairs of a student's layer and a teacher's, from shallow to deep.
    """
    last = max(1, len(student) - 1)
    pairs = [
        (layer, teacher[round(i * (len(teacher) - 1) / last)]) for i, layer in enumerate(student)
    ]
    if len(student) == 1:
        pairs = [(student[0], teacher[-1])]
    third = max(1, round(len(pairs) / 3))
    if share < SMALL:
        return pairs[:third]
    if share < LARGE:
        start = (len(pairs) - third) // 2
        return pairs[start : start + third]
    return [pairs[0], pairs[-1]] if len(pairs) > 1 else pairs


@dataclass(frozen=True)
class OnLayers(Term):
    """A term on intermediate outputs: the mean over its pairs of layers, compared in float32.

    Attributes:
        layers: The teacher's layers by the student's, by name or number; `auto` to find them.
        combine: How several layers of the teacher become one.
        pairs: The layers, with their shapes, in a bound term.
    """

    asks_teacher: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = True
    teaches_classes: ClassVar[bool] = False
    whole_depth: ClassVar[bool] = True  # `auto` looks for pairs along the depth, else at the end
    relates_places: ClassVar[bool] = False  # its loss is constant where there is only one
    relates_channels: ClassVar[bool] = False  # each of the student's with one of the teacher's
    layers: LayerPairs = "auto"
    combine: Combine = "mean"
    pairs: tuple[Pair, ...] = ()

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """See `Term`."""
        if teacher is None:
            raise LayerError(f"{self.name} needs a teacher whose layers can be read")
        pairs = tuple(
            Pair.of(student, name, teacher, names)
            for name, names in self._paired_names(student, teacher)
        )
        kept = student.kept_of(teacher)
        if kept is not None and self.layers == "auto":
            device = next(student.module.parameters()).device
            related = kept.channels if self.relates_channels else {}
            known = {name: channels.to(device) for name, channels in related.items()}
            pairs = tuple(replace(p, kept=known.get(p.student), matched=True) for p in pairs)
        bound = replace(self, pairs=pairs)
        for pair in pairs:
            bound.check(pair)
        return bound

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        (name,) = get_args(self.Options.model_fields["term"].annotation)
        return str(name)

    def _paired_names(
        self, student: ModelSummary, teacher: ModelSummary
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Names of the student's layers, each with those of the teacher that it learns from."""
        if self.layers != "auto":
            return [
                (student.layer(key), tuple(teacher.layer(k) for k in keys))
                for key, keys in self.layers.items()
            ]
        for model in (student, teacher):
            if not model.blocks:
                raise LayerError(f"the {model.name} has no layers that could be found; name them")
        # Of a part of the teacher each layer is paired with itself.
        of_teacher = student.blocks if student.kept_of(teacher) is not None else teacher.blocks
        if not self.whole_depth:
            return [(student.blocks[-1], (of_teacher[-1],))]
        share = student.params / max(1, teacher.params)
        return [(layer, (paired,)) for layer, paired in by_depth(student.blocks, of_teacher, share)]

    def check(self, pair: Pair) -> None:
        """Refuses layers that do not fit.

        Raises:
            LayerError: With both shapes.
        """
        teachers = zip(pair.teachers, pair.teacher_shapes, strict=True)
        for name, shape in ((pair.student, pair.student_shape), *teachers):
            if is_channels_last(shape):
                raise LayerError(
                    f"layer {name} gives {shape}, which looks like channels last; name a layer "
                    "that gives maps [channels, height, width]"
                )
        if self.combine == "mean" and len({map_shape(s)[0] for s in pair.teacher_shapes}) > 1:
            shapes = " and ".join(map(str, pair.teacher_shapes))
            raise LayerError(
                f"layers {', '.join(pair.teachers)} of the teacher have different channels "
                f"({shapes}): they have no mean; use combine: concat"
            )
        if self.relates_places and pair.places == 1:
            shapes = " and ".join(map(str, pair.teacher_shapes))
            raise LayerError(
                f"{self.name} relates the places of a map, and here is only one: {pair.student} of "
                f"the student gives {pair.student_shape}, {', '.join(pair.teachers)} of the "
                f"teacher {shapes}. Name layers whose maps are larger than 1x1, or use features, "
                "similarity, rkd or crd"
            )

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(pair.student for pair in self.pairs)

    @property
    def teacher_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(name for pair in self.pairs for name in pair.teachers)

    @property
    def matched_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(pair.student for pair in self.pairs if pair.matched)

    def auxiliary(self) -> nn.Module | None:
        """See `Term`."""
        helpers = {str(i): self.helper(pair) for i, pair in enumerate(self.pairs)}
        modules = {key: module for key, module in helpers.items() if module is not None}
        return nn.ModuleDict(modules) if modules else None

    def helper(self, pair: Pair) -> nn.Module | None:
        """The module that learns with the student for one pair, if any."""
        return None

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None and self.pairs, "bind first"
        losses = []
        for index, pair in enumerate(self.pairs):
            helper = None
            if isinstance(auxiliary, nn.ModuleDict) and str(index) in auxiliary:
                helper = auxiliary[str(index)]
            student_BCHW, teacher_BCHW = pair.maps(
                student.features[pair.student],
                [teacher.features[name].detach() for name in pair.teachers],
                self.combine,
            )
            with torch.autocast(student_BCHW.device.type, enabled=False):
                losses.append(self.compare(student_BCHW, teacher_BCHW, batch, helper, progress))
        return torch.stack(losses).mean(dim=0)

    @abstractmethod
    def compare(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
    ) -> Tensor:
        """The loss of one pair.

        Args:
            student_BCHW: float32, the student's output as a map.
            teacher_BCHW: float32, the teacher's; channels and size may differ.
            batch: The examples.
            helper: The module that `helper` made.
            progress: Share of the run that is done.

        Returns:
            float32 `[B]`, or a scalar where `coupled`.
        """


def map_shape(shape: tuple[int, ...], special: int = 0) -> tuple[int, ...]:
    """The shape `(C, H, W)` that `as_map` gives to an output of this shape, without the batch."""
    return tuple(as_map(torch.empty(1, *shape, device="meta"), special).shape[1:])


def as_map(x: Tensor, special: int = 0) -> Tensor:
    """An output as a map `[B, C, H, W]`.

    Tokens `[B, N, D]` are laid out in a square where they fill one, else in a column; a vector
    `[B, D]` is a map of 1x1.

    Args:
        x: The output.
        special: Number of tokens before the patches, which are left out.
    """
    if x.ndim == 4:
        return x
    if x.ndim == 2:
        return x[:, :, None, None]
    patches_BDN = x[:, special:].transpose(1, 2)
    batch, width, count = patches_BDN.shape
    side = math.isqrt(count)
    if side * side == count:
        return patches_BDN.reshape(batch, width, side, side)
    return patches_BDN[..., None]


def resized(x_BCHW: Tensor, size: Sequence[int], how: Resize) -> Tensor:
    """A map at another size: averaged over adaptive windows, or interpolated."""
    if tuple(x_BCHW.shape[-2:]) == tuple(size):
        return x_BCHW
    if how == "pool":
        return F.adaptive_avg_pool2d(x_BCHW, (size[0], size[1]))
    return F.interpolate(x_BCHW, size=list(size), mode="bilinear", align_corners=False)


def at_one_size(
    student_BCHW: Tensor, teacher_BCHW: Tensor, how: Resize = "pool"
) -> tuple[Tensor, Tensor]:
    """Both maps at one size: the smaller of both by pooling, or the student's by interpolation.

    Returns:
        The student's map, and the teacher's.
    """
    if how == "bilinear":
        return student_BCHW, resized(teacher_BCHW, student_BCHW.shape[-2:], how)
    shapes = zip(student_BCHW.shape[-2:], teacher_BCHW.shape[-2:], strict=True)
    size = [min(a, b) for a, b in shapes]
    return resized(student_BCHW, size, how), resized(teacher_BCHW, size, how)


def pooled(x_BCHW: Tensor) -> Tensor:
    """The mean over positions, `[B, C]`."""
    return x_BCHW.mean(dim=(2, 3))


class Channels(NamedTuple):
    """Numbers of channels of two maps that are compared."""

    student: int
    teacher: int


def channels_of(pair: Pair, combine: Combine) -> Channels:
    """Channels of the student's map, and those of the teacher's layers that it is compared with."""
    teachers = [map_shape(shape)[0] for shape in pair.teacher_shapes]
    teacher = sum(teachers) if combine == "concat" else teachers[0]
    if pair.kept is not None:
        teacher = len(pair.kept)
    return Channels(map_shape(pair.student_shape)[0], teacher)


def projector(pair: Pair, combine: Combine) -> nn.Module | None:
    """A 1x1 convolution from the student's channels to the teacher's, where they differ.

    Romero et al., "FitNets: Hints for Thin Deep Nets", 2015.
    """
    student, teacher = channels_of(pair, combine)
    return None if student == teacher else nn.Conv2d(student, teacher, 1, bias=False)
