"""Pictures: the one way from a file to the pixels that models see, and a word on what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from nasdistill.common.types import Input
from nasdistill.data.batch import Size

FULL_DEPTH = 16
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True)
class Preparation:
    """The way from a picture's file to the pixels that a model takes.

    Attributes:
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        size: `(height, width)` of the pixels.
        stored: `(height, width)` to which a picture is brought first; `size` but for small data
            that are shown at a size of the user's.
        bits: In use in pictures of more than 8 bits a channel, 8 to 16; the upper 8 are kept.
    """

    channels: int
    size: Size
    stored: Size
    bits: int = FULL_DEPTH

    @classmethod
    def of(cls, input: Input) -> Preparation:
        """Pictures that are brought to their size at once."""
        return cls(input.channels, input.size, input.size)

    @property
    def input(self) -> Input:
        """The shape of the pixels."""
        return Input(self.channels, *self.size)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Prepares an opened file, uint8 `[C, height, width]`.

        Raises:
            ValueError: If its mode cannot be converted.
        """
        return to_array(fit(self.stored_image(image), self.size))

    def stored_image(self, image: Image.Image) -> Image.Image:
        """Brings an opened file to the size and the colours that it is stored in.

        Raises:
            ValueError: If its mode cannot be converted.
        """
        image.draft(None, (2 * max(self.stored),) * 2)  # JPEG: skips unneeded detail.
        return fit(in_8_bits(image, self.channels, self.bits), self.stored)

    def describe(self) -> dict[str, Any]:
        """The steps as JSON values, in the order in which they are taken, and Pillow's version.

        Resizing may differ in the last bit between versions.
        """
        return {
            "pillow": PIL.__version__,
            "frame": "first",
            "jpeg_draft": [2 * max(self.stored)] * 2,
            "orientation": "exif",
            "bits": self.bits,
            "transparency": "over white",
            "colour": "grey, ITU-R 601" if self.channels == 1 else "rgb",
            "crop": "middle",
            "sizes": [list(size) for size in dict.fromkeys((self.stored, self.size))],
            "resize": "bilinear",
            "antialias": True,
            "layout": "NCHW",
            "range": [0, 1],
        }

    def recipe(self) -> str:
        """Lines of Python that do the same with NumPy and Pillow alone.

        Returns:
            Code that reads `picture.jpg` into `pixels`, float32 `[1, C, height, width]` in [0, 1].
        """
        mode, planes = "RGB", ".transpose(2, 0, 1)[None]"
        if self.channels == 1:
            mode, planes = "L", "[None, None]"
        side = 2 * max(self.stored)
        sizes = dict.fromkeys((self.stored, self.size))
        fits = "\n".join(
            f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR)"
            for height, width in sizes
        )
        return f"""import numpy as np
from PIL import Image, ImageOps

image = Image.open("picture.jpg")
image.draft(None, ({side}, {side}))
image = ImageOps.exif_transpose(image)
if image.mode.startswith("I"):
    image = Image.fromarray((np.asarray(image) >> {self.bits - 8}).clip(0, 255).astype(np.uint8))
if image.has_transparency_data:
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image.convert("RGBA"))
image = image.convert("{mode}")
{fits}
pixels = np.asarray(image){planes}.astype(np.float32) / 255
"""


def in_8_bits(image: Image.Image, channels: int, bits: int = FULL_DEPTH) -> Image.Image:
    """Turns an image as its camera was held, and into 8 bits of grey or RGB.

    Args:
        image: An opened file; of several frames the first. What is transparent is laid over white.
        channels: 1 or 3.
        bits: In use in a picture of more than 8 bits a channel.

    Raises:
        ValueError: If its mode cannot be converted.
    """
    refuse_mode(image)
    image = ImageOps.exif_transpose(image)
    if is_deep(image):
        deep = np.asarray(image) >> (bits - 8)
        image = Image.fromarray(deep.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a channel."""
    return image.mode.startswith("I")


def refuse_mode(image: Image.Image) -> None:
    """Refuses pictures whose values have no known range, or whose colours no known conversion.

    Raises:
        ValueError: With the mode, and what to save instead.
    """
    if image.mode == "F":
        raise ValueError("float pixels have no known range; save 8 or 16 bits")
    if not is_deep(image) and image.mode not in CONVERTIBLE:
        raise ValueError(f"mode {image.mode} is not converted; save grey or RGB")
    if image.mode == "I":
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= 1 << FULL_DEPTH:
            raise ValueError(f"values from {low} to {high}; save 8 or 16 bits")


def channels_of(image: Image.Image) -> int:
    """1 for a grey image of any depth, else 3."""
    return 1 if image.mode in ("1", "L", "LA") or is_deep(image) else 3


def fit(image: Image.Image, size: Size) -> Image.Image:
    """Brings an image to `(height, width)`: its middle, where the proportions differ."""
    target = (size[1], size[0])
    if image.size == target:
        return image
    return ImageOps.fit(image, target, method=Image.Resampling.BILINEAR)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Grey or RGB image as uint8 `[C, H, W]`."""
    array = np.asarray(image)
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)).copy()


def fit_batch(images: Tensor, size: Size) -> Tensor:
    """Does what `fit` does, by the same code, whatever the device.

    Args:
        images: uint8 `[B, C, H, W]`.
        size: `(height, width)` of the result in pixels.

    Returns:
        uint8 `[B, C, height, width]` on the same device.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return torch.from_numpy(fit_arrays(images.cpu().numpy(), size)).to(images.device)


def fit_arrays(images: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Brings images `[N, C, H, W]` to `(height, width)`; see `fit`."""
    pictures = (Image.fromarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)) for x in images)
    out = np.empty((*images.shape[:2], *size), np.uint8)
    for index, picture in enumerate(pictures):
        out[index] = to_array(fit(picture, size))
    return out


# -- what was done ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traits:
    """What is not plain about a picture.

    Attributes:
        kinds: Of `transparent`, `frames`, `cmyk`.
        peak: Its largest value where it has more than 8 bits a channel; None else.
    """

    kinds: tuple[str, ...] = ()
    peak: int | None = None

    @property
    def all_kinds(self) -> tuple[str, ...]:
        """The kinds, and `deep` for more than 8 bits a channel."""
        return self.kinds if self.peak is None else (*self.kinds, "deep")


def traits_of(image: Image.Image) -> Traits:
    """Looks at a loaded picture."""
    kinds = []
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if (alpha < 255).any():
            kinds.append("transparent")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a camera's preview.
        kinds.append("frames")
    if image.mode == "CMYK":
        kinds.append("cmyk")
    peak = int(np.asarray(image).max()) if is_deep(image) else None
    return Traits(tuple(kinds), peak)


def bits_in_use(traits: Iterable[Traits]) -> int:
    """Bits that the largest value of all deep pictures needs, 8 to 16; 16 where none is deep."""
    peaks = [each.peak for each in traits if each.peak is not None]
    return max(8, max(peaks).bit_length()) if peaks else FULL_DEPTH


def notes_on(traits: Sequence[Traits]) -> tuple[str, ...]:
    """What was done to pictures that are not plain, a sentence for each kind."""
    counts = Counter(kind for each in traits for kind in each.kinds)
    texts = {
        "transparent": "transparent in part: laid over white",
        "frames": "of several frames: the first is taken",
        "cmyk": "in CMYK: converted to RGB without their colour profile",
    }
    notes = [f"{counts[kind]:,} picture(s) {text}" for kind, text in texts.items() if counts[kind]]
    peaks = [each.peak for each in traits if each.peak is not None]
    if peaks:
        bits = bits_in_use(traits)
        notes.append(
            f"{len(peaks):,} picture(s) of 16 bits whose largest value is {max(peaks):,}: read as "
            f"{bits} bits, of which the upper 8 are kept"
        )
    return tuple(notes)
