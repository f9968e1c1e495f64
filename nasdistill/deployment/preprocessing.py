"""Preparation of pictures inside an ONNX file: what Pillow does, in whole numbers.

From a picture as decoded come the pixels that `data.pictures` makes of it, to the bit: Pillow's
`alpha_composite` over white, its ITU-R 601 luma, and `ImageOps.fit` with its resampling of 8 bits
(AlphaComposite.c, Convert.c, Resample.c of libImaging). What only a decoder knows stays with it:
orientation, palettes, CMYK, more than 8 bits, the draft of a JPEG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasdistill.common.errors import UserError
from nasdistill.data.pictures import Preparation
from nasdistill.deployment.formats import Remarks
from nasdistill.deployment.graph import Graph, Value
from nasdistill.deployment.metadata import with_metadata
from nasdistill.deployment.source import Source
from nasdistill.models.artifact import preparation_of, read_input

LEAST_OPSET = 13
"""The first whose operators take what is given to them here."""
PREFIX = "preparation/"
PRECISION_BITS = 22
"""Of Pillow's coefficients: 32, less 8 of a pixel and 2 for sums that exceed it."""
LUMA = np.array([19595, 38470, 7471], np.float32)[:, None, None]
"""ITU-R 601 in 16 bits."""
Colours = Callable[[Value], Value]
"""Makes planes `[C, H, W]` of others."""


def write_with_preprocessing(source: Source, inner: Path, path: Path) -> Remarks:
    """Writes an ONNX file that takes a picture as decoded: `image`, uint8 `[H, W, C]` of any size.

    Args:
        source: The final.
        inner: Its file without preparation.
        path: The file.

    Returns:
        `around`, the name of the file without, `takes`, and `text`.

    Raises:
        UserError: If the opset of the file without is too old, or the preparation is no known one.
    """
    description = read_input(inner.parent)
    resize = description.get("resize", "bilinear")
    if resize != "bilinear":
        raise UserError(f"{inner.parent}: resize: found {resize!r}, allowed: 'bilinear'")
    # The version that training used; those before 13 know one order of passes.
    tall_first = int(str(description.get("pillow", "0")).partition(".")[0]) >= 13
    preparation = preparation_of(inner.parent)
    content = with_preparation(inner.read_bytes(), preparation, tall_first, str(inner))
    metadata = {**source.metadata, "takes": TAKES}
    path.write_bytes(with_metadata(content, metadata))
    text = f"prepares pictures itself, then does as {inner.name}"
    return {"around": inner.name, "takes": TAKES, "text": [text]}


TAKES = (
    "image: one picture as decoded and upright, uint8 [height, width, channels] of any size; "
    "1 channel is grey, 2 grey with alpha, 3 RGB, 4 RGBA"
)


def with_preparation(
    content: bytes, preparation: Preparation, tall_first: bool, file: str
) -> bytes:
    """An ONNX file with the preparation of a picture before it.

    Args:
        content: A file with the one input `images`.
        preparation: What is done.
        tall_first: See `prepared`.
        file: The file's name, for messages.

    Returns:
        A file with the one input `image`.

    Raises:
        UserError: If the file's opset is too old.
    """
    import onnx

    model = onnx.load_from_string(content)
    opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset < LEAST_OPSET:
        raise UserError(f"{file}: opset {opset}; preparation needs {LEAST_OPSET} or later")
    added = Graph(PREFIX)
    pixels = prepared(added.input("image", np.uint8), preparation, tall_first)
    floats = pixels.cast(np.float32) / 255
    images = floats.apply("Unsqueeze", np.array([0]))
    [images_input] = [item for item in model.graph.input if item.name == "images"]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = images.name if name == images_input.name else name
    nodes = [*added.nodes, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(added.constants)
    shape = ["height", "width", "channels"]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, shape)
    )
    result: bytes = model.SerializeToString()
    return result


def prepared(image: Value, preparation: Preparation, tall_first: bool) -> Value:
    """The pixels of a picture.

    Args:
        image: uint8 `[H, W, C]`.
        preparation: What is done.
        tall_first: Whether pictures that shrink more in height than in width are resampled
            vertically first, as Pillow does since version 13.

    Returns:
        `[C, height, width]`, whole numbers in doubles.
    """
    colours = as_grey if preparation.channels == 1 else as_rgb
    first, *others = dict.fromkeys((preparation.stored, preparation.size))
    planes = fit(image.apply("Transpose", perm=[2, 0, 1]), first, tall_first, colours)
    for size in others:
        planes = fit(planes, size, tall_first)
    return planes


def as_rgb(planes: Value) -> Value:
    """Grey or RGB, either with or without alpha, as floats `[3, H, W]`; over white.

    Args:
        planes: uint8 `[C, H, W]`. All sums below are whole numbers under 2²⁴, exact in float32.
    """
    channels = planes.shape().part(0, 1, 0)
    places = channels.apply("Less", 3).where(np.array([0, 0, 0]), np.array([0, 1, 2]))
    colours = planes.apply("Gather", places, axis=0).cast(np.float32)

    def over_white(graph: Graph) -> Value:
        alpha = planes.within(graph).apply("Gather", channels - 1, axis=0).cast(np.float32)
        mixed = (colours.within(graph) * alpha + (255 - alpha) * 255) * 128 + 0x4000
        return _whole((_whole(mixed / 256) + mixed) / 0x8000)

    has_alpha = channels.apply("Mod", 2).apply("Equal", 0)
    return planes.graph.choose(has_alpha, over_white, colours.within)


def as_grey(planes: Value) -> Value:
    """ITU-R 601 luma, in 16 bits, of what `as_rgb` makes of planes; `[1, H, W]`."""
    weighted = as_rgb(planes) * LUMA
    sums = weighted.apply("ReduceSum", np.array([0]), keepdims=1)
    return _whole((sums + 0x8000) / 0x10000)


def fit(
    planes: Value, size: tuple[int, int], tall_first: bool, colours: Colours | None = None
) -> Value:
    """Brings a picture to `(height, width)` as `ImageOps.fit` does: the middle of it.

    Args:
        planes: `[C, H, W]`.
        size: `(height, width)`.
        tall_first: See `prepared`.
        colours: Makes planes of others; pixels that are cut off are spared it.
    """
    height, width = size
    rows, columns = (_length(planes, axis) for axis in (1, 2))
    ratio, target_ratio = columns / rows, width / height
    wider, same = ratio.apply("GreaterOrEqual", target_ratio), ratio.apply("Equal", target_ratio)
    taken_columns = wider.where(same.where(columns, rows * target_ratio), columns)
    taken_rows = wider.where(rows, columns / target_ratio)
    across = Resampling.of(columns, (columns - taken_columns) * 0.5, taken_columns, width)
    down = Resampling.of(rows, (rows - taken_rows) * 0.5, taken_rows, height)
    picture = planes.part(down.start, down.stop, 1).part(across.start, across.stop, 2)
    if colours is not None:
        picture = colours(picture)
    picture = picture.cast(np.float64)
    if not tall_first:
        return down.vertical(across.horizontal(picture))
    shrinks = rows.apply("Greater", float(height))
    more = (rows - height).apply("Greater", (columns - width) * 2)
    return planes.graph.choose(
        shrinks.apply("And", more),
        lambda graph: across.horizontal(down.vertical(picture.within(graph))),
        lambda graph: down.vertical(across.horizontal(picture.within(graph))),
    )


@dataclass(frozen=True)
class Resampling:
    """One pass of Pillow's resampling by triangles, along an axis.

    Attributes:
        start: The first pixel that it reads.
        stop: The one after the last.
        coefficients: Whole numbers in doubles, `[pixels of the result, pixels read]`.
    """

    start: Value
    stop: Value
    coefficients: Value

    @classmethod
    def of(cls, length: Value, begin: Value, extent: Value, count: int) -> Resampling:
        """From a stretch of an axis to so many pixels.

        Args:
            length: Of the axis, in pixels.
            begin: Where the stretch begins, in pixels.
            extent: Its length.
            count: Pixels of the result.
        """
        low, high = begin.cast(np.float32), (begin + extent).cast(np.float32)  # as Pillow's box
        scale = (high - low).cast(np.float64) / count
        reach = scale.apply("Max", 1.0)
        centre = scale * (np.arange(count)[:, None] + 0.5) + low.cast(np.float64)
        first = _whole(centre - reach + 0.5).apply("Max", 0.0)
        last = _whole(centre + reach + 0.5).apply("Min", length)
        start, stop = first.part(0, 1, 0), last.part(count - 1, count, 0)
        places = _scalar(start).apply("Range", _scalar(stop), 1.0)
        away = (places - centre + 0.5) * reach.apply("Reciprocal")
        inside = places.apply("GreaterOrEqual", first).apply("And", places.apply("Less", last))
        weights = inside.where((1.0 - away.apply("Abs")).apply("Max", 0.0), 0.0)
        shares = weights / weights.apply("ReduceSum", np.array([1]), keepdims=1)
        return cls(start, stop, _whole(shares * (1 << PRECISION_BITS) + 0.5))

    def horizontal(self, planes: Value) -> Value:
        """Planes `[C, H, W]`, of what is read, with another width."""
        matrix = self.coefficients.within(planes.graph).apply("Transpose", perm=[1, 0])
        return _rounded(planes.apply("MatMul", matrix))

    def vertical(self, planes: Value) -> Value:
        """Planes `[C, H, W]`, of what is read, with another height."""
        return _rounded(self.coefficients.within(planes.graph).apply("MatMul", planes))


def _rounded(sums: Value) -> Value:
    """Pixels of sums in fixed point. Triangles have no negative lobes: none leaves 0 to 255."""
    return _whole((sums + (1 << (PRECISION_BITS - 1))) / (1 << PRECISION_BITS))


def _whole(value: Value) -> Value:
    return value.apply("Floor")


def _length(planes: Value, axis: int) -> Value:
    """The length of an axis, as a double without dimensions."""
    return planes.shape().apply("Gather", np.array(axis)).cast(np.float64)


def _scalar(value: Value) -> Value:
    return value.apply("Reshape", np.array([], np.int64))
