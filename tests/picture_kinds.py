"""Untidy pictures, two classes of each kind, that tests of their preparation share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RNG = np.random.default_rng(0)
COUNT = 10  # Pictures of each class.


def bar(label: int, side: int = 32) -> NDArray[np.uint8]:
    """Grey noise with a bright bar on the left, or in the middle."""
    picture = RNG.integers(0, 60, (side, side)).astype(np.uint8)
    picture[:, label * side // 2 : label * side // 2 + side // 4] = 230
    return picture


def turned(picture: Image.Image) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


def write_kind(kind: str, path: Path, label: int, number: int) -> None:
    """One picture of a kind; every other one stored on its side where the kind has orientation."""
    picture = bar(label)
    on_side = number % 2 == 1
    if kind == "grey jpeg, turned":
        image = Image.fromarray(np.rot90(picture).copy() if on_side else picture)
        image.save(path.with_suffix(".jpg"), **(turned(image) if on_side else {}))
    elif kind == "wide":
        wide = RNG.integers(0, 60, (96, 288)).astype(np.uint8)
        wide[:, 96 + 48 * label : 144 + 48 * label] = 230
        Image.fromarray(wide if on_side else wide[:, 24:-24].copy()).save(path)
    elif kind == "photo":
        noise = RNG.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        photo = Image.fromarray(noise).resize((1024, 768), Image.Resampling.BICUBIC)
        photo.save(path.with_suffix(".jpg"), quality=95)
    elif kind == "16 bits, turned":
        deep = picture.astype(np.uint16) * 16
        image = Image.fromarray(np.rot90(deep).copy() if on_side else deep)
        image.save(path, **(turned(image) if on_side else {}))
    elif kind == "black on transparent":
        layers = np.zeros((32, 32, 4), np.uint8)
        layers[..., 3] = picture
        Image.fromarray(layers).save(path)
    elif kind == "grey with alpha":
        Image.fromarray(picture).convert("LA").save(path)
    elif kind == "palette with transparency":
        image = Image.fromarray(np.dstack([picture, picture // 2, 255 - picture])).quantize(16)
        image.save(path, transparency=3)
    elif kind == "cmyk":
        image = Image.fromarray(np.dstack([picture, picture // 3, 255 - picture])).convert("CMYK")
        image.save(path.with_suffix(".jpg"))
    elif kind == "animated":
        frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "bilevel":
        Image.fromarray(picture > 100).save(path)
    else:
        raise AssertionError(kind)


KINDS: dict[str, dict[str, Any]] = {
    "grey jpeg, turned": {},
    "wide": {},
    "photo": {"image_size": 40},
    "16 bits, turned": {},
    "black on transparent": {},
    "grey with alpha": {},
    "palette with transparency": {},
    "cmyk": {"channels": 1},
    "animated": {"image_size": 40},
    "bilevel": {"channels": 3, "image_size": 24},
}


def folder_of(kind: str, root: Path) -> Path:
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for number in range(COUNT):
            write_kind(kind, root / name / f"{number}.png", label, number)
    return root
