"""RandAugment: what torchvision does, drawn by counting."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, fill, load, pixels, surveyed
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from nasdistill.common.errors import UserError
from nasdistill.data import RandAugment, ResidentSplit, StreamingSplit, Views
from nasdistill.data.randaugment import BLENDS, MOVES, OPERATIONS, operate

NAMES = {name: name.title().replace("-", "") for name in OPERATIONS} | {
    "autocontrast": "AutoContrast"
}
SIGNED = (*MOVES, *BLENDS)


def scenes(count: int = 3, height: int = 33, width: int = 28, channels: int = 3) -> Tensor:
    """Smooth coloured pictures with some noise, which no operation leaves as they are."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, channels, 4, 4, generator=generator) * 150 + 40
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    grain = torch.randint(-20, 21, smooth.shape, generator=generator)
    return (smooth + grain).clamp(0, 255).to(torch.uint8)


def by_torchvision(images: Tensor, operation: str, magnitude: int) -> Tensor:
    space: Mapping[str, Any] = v2.RandAugment._AUGMENTATION_SPACE
    strengths, _ = space[NAMES[operation]]
    table = strengths(31, *images.shape[-2:])
    strength = 0.0 if table is None else float(table[abs(magnitude)])
    out = v2.RandAugment()._apply_image_or_video_transform(
        images,
        NAMES[operation],
        -strength if magnitude < 0 else strength,
        interpolation=v2.InterpolationMode.NEAREST,
        fill={Tensor: None},
    )
    assert isinstance(out, Tensor)
    return out


# -- operations


def test_operations_are_torchvisions() -> None:
    assert set(NAMES.values()) == set(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_do_what_torchvisions_do(operation: str) -> None:
    for images in (scenes(), scenes(channels=1), scenes(height=28)):
        for magnitude in (1, 4, 9, 17, 30):
            for sign in (1, -1) if operation in SIGNED else (1,):
                actual = operate(images, operation, sign * magnitude)
                assert actual.dtype == torch.uint8 and actual.shape == images.shape
                expected = by_torchvision(images, operation, sign * magnitude)
                apart = (actual.int() - expected.int()).abs()
                if operation in MOVES:
                    # Half-way between two pixels, the strength's last bit decides.
                    assert (apart > 0).float().mean() < 0.01, magnitude
                else:
                    # torchvision cuts fractions off, of the grey and of the blend.
                    assert apart.max() <= (2 if operation in BLENDS else 0), magnitude


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_change_a_picture(operation: str) -> None:
    images = scenes()
    for magnitude in (9, -9):
        changed = (operate(images, operation, magnitude) != images).flatten(1).any(1)
        assert changed.all() == changed.any() == (operation != "identity")
    if operation in SIGNED:
        assert not torch.equal(operate(images, operation, 9), operate(images, operation, -9))
        assert torch.equal(operate(images, operation, 0), images)


def test_colour_leaves_grey_as_it_is() -> None:
    grey = scenes(channels=1)
    for magnitude in (-30, -9, 9, 30):
        assert torch.equal(operate(grey, "color", magnitude), grey)
        as_colour = grey.expand(-1, 3, -1, -1)
        assert torch.equal(operate(as_colour, "color", magnitude), as_colour)


# -- draws


def test_every_operation_is_drawn_equally_often() -> None:
    ids = torch.arange(28_000)
    which, reverse = RandAugment(3).draw(ids, 2, 0)
    assert which.shape == reverse.shape == (3, 28_000)
    for each, sign in zip(which, reverse, strict=True):
        assert stats.chisquare(torch.bincount(each, minlength=14).numpy()).pvalue > 0.01
        assert abs(float(sign.float().mean()) - 0.5) < 0.01
        pairs = torch.bincount(2 * each + sign, minlength=28)
        assert stats.chisquare(pairs.numpy()).pvalue > 0.01
    assert abs(float((which[0] == which[1]).float().mean()) * 14 - 1) < 0.1
    for other in (RandAugment(3).draw(ids, 3, 0), RandAugment(3).draw(ids, 2, 1)):
        assert abs(float((other[0] == which).float().mean()) * 14 - 1) < 0.1


def test_draws_of_operations_do_not_depend_on_the_machine() -> None:
    which, reverse = RandAugment().draw(torch.arange(6), 2, 1)
    assert which.tolist() == [[8, 1, 12, 13, 7, 9], [13, 7, 10, 13, 9, 0]]
    assert reverse.tolist() == [
        [False, True, False, True, False, True],
        [False, False, False, True, False, False],
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_is_augmented_alike_in_every_batch(channels: int) -> None:
    images, augment = scenes(40, 31, 27, channels), RandAugment(2, 13)
    ids = torch.arange(40)
    whole = augment.apply(images, ids, 5, 3)
    which, reverse = augment.draw(ids, 5, 3)
    seen: set[str] = set()
    for i in range(40):
        assert torch.equal(augment.apply(images[i : i + 1], ids[i : i + 1], 5, 3)[0], whole[i])
        expected = images[i : i + 1]
        for operation, back in zip(which[:, i], reverse[:, i], strict=True):
            seen.add(OPERATIONS[int(operation)])
            expected = operate(expected, OPERATIONS[int(operation)], -13 if back else 13)
        assert torch.equal(expected[0], whole[i])
    assert seen == set(OPERATIONS)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment.apply(images[order], order, 5, 3), whole[order])
    torch.set_num_threads(2)
    assert torch.equal(augment.apply(images, ids, 5, 3), whole)


# -- as a part of views


@pytest.mark.parametrize(("kind", "size"), [("shift", (40, 44)), ("crop", (72, 80))])
def test_views_are_augmented_before_they_are_cut(tmp_path: Path, kind: Any, size: Any) -> None:
    fill(tmp_path / "a", 12, size)
    files, labels = surveyed(tmp_path / "a", size), np.arange(12) % 2
    plain = Views(kind, 5)
    views = replace(plain, rand_augment=RandAugment())
    images = torch.from_numpy(files.decode_all())
    resident = ResidentSplit(images, labels, views, CPU)
    streaming = StreamingSplit(files, labels, views, CPU, workers=0)
    ids = list(range(12))
    for view in (0, 7):
        augmented = RandAugment().apply(images, torch.tensor(ids), view, 5)
        by_hand = ResidentSplit(augmented, labels, plain, CPU)
        for shown in (size, (32, 32)):
            whole = pixels(resident, ids, view, shown)
            assert torch.equal(whole, pixels(by_hand, ids, view, shown))
            assert torch.equal(whole, pixels(streaming, ids, view, shown))
            alone = torch.cat([pixels(resident, [i], view, shown) for i in ids])
            assert torch.equal(whole, alone)
        unaugmented = pixels(ResidentSplit(images, labels, plain, CPU), ids, view, size)
        changed = (pixels(resident, ids, view, size) != unaugmented).flatten(1).any(1)
        assert changed.sum() >= 10
    assert torch.equal(pixels(resident, ids, None, size), images)


def test_grey_images_at_several_sizes_show_the_same_picture() -> None:
    data = load("fashion-mnist-mini")
    data = data.with_views(replace(data.views, rand_augment=RandAugment(2, 15)))
    (batch,) = data.train.batches([(torch.arange(64), 1)], (28, 28), [(56, 56)])
    large = batch.images_at((56, 56))
    averaged = torch.nn.functional.avg_pool2d(large.float(), 2)
    apart, strange = (
        float((each - batch.images.float()).abs().mean())
        for each in (averaged, averaged.roll(1, 0))
    )
    assert apart < 8 and strange > 40


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"operations": 0}, "operations 0 is out of range (allowed: 1 to 8)"),
        ({"magnitude": 31}, "magnitude 31 is out of range (allowed: 0 to 30)"),
        ({"magnitude": -1}, "magnitude -1 is out of range"),
    ],
)
def test_numbers_out_of_range(values: dict[str, int], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        RandAugment(**values)
    assert reason in str(caught.value)


def test_the_package_does_not_import_torchvision() -> None:
    code = "import sys, nasdistill.data; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
