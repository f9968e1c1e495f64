"""Mixed views, and views at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, fill, pixels, surveyed
from scipy import stats

from nasdistill.common.errors import UserError
from nasdistill.data import (
    Batch,
    Files,
    Mixing,
    RandAugment,
    ResidentSplit,
    Split,
    StreamingSplit,
    Views,
)
from nasdistill.data.mixing import FINE, quantiles

MIXUP, CUTMIX = Mixing("mixup", 1.0), Mixing("cutmix", 1.0)
BOTH = pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])


def shown(split: Split, ids: list[int], view: int | None, *sizes: tuple[int, int]) -> Batch:
    (batch,) = split.batches([(torch.tensor(ids), view)], sizes[0], sizes[1:])
    return batch


def noise(
    mixing: Mixing | None, count: int = 12, size: tuple[int, int] = (20, 16)
) -> ResidentSplit:
    """Noise images whose labels are their ids."""
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, 3, *size), dtype=np.uint8)
    )
    return ResidentSplit(images, np.arange(count), Views("shift", 7, mixing=mixing), CPU)


def constant(mixing: Mixing, values: Sequence[int], side: int = 64) -> ResidentSplit:
    """One image of each value, whose label is its id."""
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, side, side)
    return ResidentSplit(images, np.arange(len(values)), Views("none", 1, mixing=mixing), CPU)


# -- partners and shares


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0, 500.0])
def test_quantiles_are_those_of_the_beta_distribution(alpha: float) -> None:
    table = quantiles(alpha, CPU)
    expected = stats.beta.ppf((np.arange(4096) + 0.5) / 4096, alpha, alpha)
    assert np.abs(table.numpy() / FINE - expected).max() < 1.1 / FINE
    assert (table.diff() >= 0).all() and float(table.double().mean()) == FINE / 2


def test_shares_of_mixup_are_uniform_for_alpha_1() -> None:
    mix = MIXUP.draw(torch.arange(20_000), 3, 0, 1000)
    assert mix.share.dtype == torch.float32 and mix.box is None
    assert abs(float(mix.share.mean()) - 0.5) < 0.01
    assert stats.kstest(mix.share.numpy(), "uniform").pvalue > 0.01
    edged = Mixing("mixup", 0.2).draw(torch.arange(20_000), 3, 0, 1000).share
    assert float(edged.var()) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.003)


def test_partners_are_uniform_and_belong_to_the_view() -> None:
    ids = torch.arange(30_000)
    partners = MIXUP.draw(ids, 3, 0, 10).partners
    assert stats.chisquare(torch.bincount(partners, minlength=10).numpy()).pvalue > 0.01
    for other in (MIXUP.draw(ids, 4, 0, 10), MIXUP.draw(ids, 3, 1, 10)):
        assert abs(float((other.partners == partners).float().mean()) - 0.1) < 0.01
    assert MIXUP.draw(ids, 3, 0, 2**31 - 1).partners.min() >= 0
    half = MIXUP.draw(ids, 3, 0, 2**31 - 1)
    assert abs(float(half.partners.double().mean()) / 2**30 - 1) < 0.02
    correlation = np.corrcoef(half.partners.numpy(), half.share.numpy())[0, 1]
    assert abs(correlation) < 0.02


def test_draws_of_mixing_do_not_depend_on_the_machine() -> None:
    mix = CUTMIX.draw(torch.arange(4), 2, 1, 1000)
    assert mix.box is not None
    assert mix.partners.tolist() == [478, 955, 366, 805]
    assert mix.box.T.tolist() == [
        [0, 0, 40481, 34103],
        [0, 0, 47058, 25158],
        [37036, 0, 65536, 30491],
        [18834, 0, 65536, 34216],
    ]
    assert (MIXUP.draw(torch.arange(4), 2, 1, 1000).share * FINE).tolist() == [
        31960,
        29656,
        28280,
        29784,
    ]


@BOTH
def test_the_pairing_follows_from_id_and_view_alone(mixing: Mixing) -> None:
    split = noise(mixing)
    for view in (0, 7, 10**6):
        whole = shown(split, list(range(12)), view, (20, 16))
        backwards = shown(split, list(range(11, -1, -1)), view, (20, 16))
        assert whole.partners is not None and backwards.partners is not None
        assert whole.share is not None and backwards.share is not None
        assert torch.equal(whole.images, backwards.images.flip(0))
        assert torch.equal(whole.partners, backwards.partners.flip(0))
        assert torch.equal(whole.share, backwards.share.flip(0))
        for i in range(12):
            alone = shown(split, [i], view, (20, 16))
            assert torch.equal(alone.images[0], whole.images[i])
            assert alone.partners == whole.partners[i] and alone.share == whole.share[i]


@BOTH
def test_plain_images_are_not_mixed(mixing: Mixing) -> None:
    mixed, plain = noise(mixing), noise(None)
    batch = shown(mixed, [3, 1], None, (20, 16))
    assert torch.equal(batch.images, plain.images[[3, 1]])
    assert batch.partners is None and batch.share is None
    assert shown(plain, [3, 1], 2, (20, 16)).partners is None
    assert mixed.moments() == plain.moments()


# -- pictures


@BOTH
def test_a_mixed_picture_is_made_of_both_in_the_same_view(mixing: Mixing) -> None:
    mixed, plain = noise(mixing), noise(None)
    ids = list(range(12))
    for view in range(6):
        batch = shown(mixed, ids, view, (20, 16))
        assert batch.partners is not None and batch.share is not None
        own = pixels(plain, ids, view, (20, 16)).double()
        other = pixels(plain, batch.partners.tolist(), view, (20, 16)).double()
        assert batch.labels.tolist() == ids and batch.images.dtype == torch.uint8
        if mixing.kind == "mixup":
            share = batch.share.double()[:, None, None, None]
            expected = (share * own + (1 - share) * other + 0.5).floor()
            assert torch.equal(batch.images.double(), expected)
        else:
            is_own, is_other = batch.images == own, batch.images == other
            assert (is_own | is_other).all()
            kept = is_own.all(dim=1).double().mean(dim=(1, 2))
            # An edge may be half a pixel off, on each of two sides.
            assert (
                kept[batch.partners != batch.ids]
                - batch.share.double()[batch.partners != batch.ids]
            ).abs().max() < 1 / 16 + 1 / 20


def test_the_share_is_what_pixels_say() -> None:
    split = constant(MIXUP, [0, 255])
    for view in range(40):
        batch = shown(split, [0, 1], view, (64, 64))
        assert batch.partners is not None and batch.share is not None
        for own, partner, share, image in zip(
            batch.labels, batch.partners, batch.share, batch.images, strict=True
        ):
            bright = float(share * own + (1 - share) * partner) * 255
            assert image.unique().numel() == 1 and abs(float(image[0, 0, 0]) - bright) <= 0.5


def test_the_box_covers_what_the_share_says() -> None:
    split = constant(CUTMIX, list(range(200)))
    seen = []
    for view in range(5):
        batch = shown(split, list(range(200)), view, (64, 64))
        assert batch.partners is not None and batch.share is not None
        own = (batch.images == batch.labels[:, None, None, None]).float().mean(dim=(1, 2, 3))
        other = batch.partners != batch.labels
        assert (own - batch.share)[other].abs().max() < 2 / 64
        assert abs(float((own - batch.share)[other].mean())) < 0.001
        seen.append(batch.share)
    # Clipped boxes are smaller: E[share] > 1/2. By simulation with numpy's own generator:
    rng = np.random.default_rng(0)
    side, centre = np.sqrt(1 - rng.random(400_000)), rng.random((2, 400_000))
    edges = np.clip([centre - side / 2, centre + side / 2], 0, 1)
    expected = float((1 - np.prod(edges[1] - edges[0], axis=0)).mean())
    assert expected > 0.6
    assert abs(float(torch.cat(seen).mean()) - expected) < 0.02


def test_boxes_lie_everywhere_and_are_one_rectangle() -> None:
    split = constant(CUTMIX, [0, 255])
    total = torch.zeros(64, 64)
    for view in range(400):
        batch = shown(split, [0], view, (64, 64))
        assert batch.partners is not None
        inside = batch.images[0, 0] == 255
        if inside.any():
            assert torch.equal(inside, inside.any(1)[:, None] & inside.any(0)[None])
        total += inside
    assert total.min() > 0 and total[16:48, 16:48].mean() > total[:8, :8].mean()
    assert (total[:32].sum() / total[32:].sum() - 1).abs() < 0.25


@BOTH
def test_another_size_is_the_same_mixture(mixing: Mixing) -> None:
    split = constant(mixing, list(range(0, 256, 5)))
    ids = list(range(50))
    large, small = (shown(split, ids, 3, (side, side)) for side in (64, 16))
    assert large.partners is not None and small.partners is not None
    assert large.share is not None and small.share is not None
    assert torch.equal(large.partners, small.partners) and torch.equal(large.share, small.share)
    if mixing.kind == "mixup":
        assert torch.equal(large.images[:, :, :16, :16], small.images)
    else:
        middles = large.images[:, :, 2::4, 2::4]
        assert (middles == small.images).float().mean() > 0.97
        averaged = torch.nn.functional.avg_pool2d(large.images.float(), 4)
        assert abs(float((averaged - small.images).mean())) < 0.5


# -- further sizes


@BOTH
def test_further_sizes_are_the_batches_of_those_sizes(tmp_path: Path, mixing: Mixing) -> None:
    fill(tmp_path / "a", 10, (80, 72))
    files = surveyed(tmp_path / "a", (80, 72))
    views = Views("crop", 5, mixing=mixing, rand_augment=RandAugment())
    splits = (
        ResidentSplit(torch.from_numpy(files.decode_all()), np.arange(10), views, CPU),
        StreamingSplit(files, np.arange(10), views, CPU, workers=0),
    )
    sizes = [(40, 36), (24, 24), (40, 36), (80, 72)]
    for split in splits:
        for view in (None, 4):
            batch = shown(split, [4, 9, 0], view, *sizes)
            assert set(batch.at) == {(24, 24), (80, 72)}
            for size in sizes:
                alone = shown(split, [4, 9, 0], view, size)
                assert not alone.at and alone.images_at(size) is alone.images
                assert torch.equal(batch.images_at(size), alone.images)
            with pytest.raises(AssertionError, match="not among the sizes"):
                batch.images_at((8, 8))


def test_each_file_is_decoded_once_for_all_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "a", 6, (70, 70))
    files = surveyed(tmp_path / "a", (70, 70))
    decoded: list[int] = []
    decode = Files.decode

    def counting(self: Files, index: int) -> Any:
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(Files, "decode", counting)
    split = StreamingSplit(files, np.arange(6), Views("crop", 5, mixing=MIXUP), CPU, workers=0)
    batch = shown(split, [0, 1, 2, 1], 3, (32, 32), (64, 64), (16, 16))
    assert batch.partners is not None
    assert sorted(decoded) == sorted({0, 1, 2, *batch.partners.tolist()})


@BOTH
@pytest.mark.parametrize("kind", ["crop", "shift"])
@pytest.mark.parametrize("augment", [None, RandAugment(3, 12)])
def test_streaming_mixes_as_resident_does(
    tmp_path: Path, mixing: Mixing, kind: Any, augment: RandAugment | None
) -> None:
    fill(tmp_path / "a", 12, (72, 80))
    files = surveyed(tmp_path / "a", (72, 80))
    labels, views = np.arange(12) % 5, Views(kind, 5, mixing=mixing, rand_augment=augment)
    resident = ResidentSplit(torch.from_numpy(files.decode_all()), labels, views, CPU)
    streaming = StreamingSplit(files, labels, views, CPU, workers=1)
    plan = [(torch.tensor([i, 11 - i, 3]), i) for i in range(3)] + [(torch.tensor([3]), None)]
    for kept, decoded in zip(
        resident.batches(plan, (48, 48), [(20, 20)]),
        streaming.batches(plan, (48, 48), [(20, 20)]),
        strict=True,
    ):
        assert torch.equal(kept.images, decoded.images)
        assert torch.equal(kept.at[20, 20], decoded.at[20, 20])
        for one, other in ((kept.partners, decoded.partners), (kept.share, decoded.share)):
            assert (one is None) == (other is None) == (kept.view is None)
            assert one is None or other is None or torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "alpha", "reason"),
    [
        ("blend", 1.0, "mixing 'blend': allowed are mixup, cutmix"),
        ("mixup", 0.0, "alpha 0.0 of mixup: it must be above 0"),
        ("cutmix", float("nan"), "alpha nan of cutmix"),
        ("cutmix", 2000.0, "at most 1000"),
    ],
)
def test_mixing_that_cannot_be(kind: Any, alpha: float, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        Mixing(kind, alpha)
    assert reason in str(caught.value)
