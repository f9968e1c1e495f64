from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_blobs
from torch import nn

from nasdistill.cache import BLOCK, AnswerCache
from nasdistill.data import Batch, Dataset, load_data
from nasdistill.options import Input
from nasdistill.teacher import Teacher, weights_hash

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz", train=1500)
    return load_data(f"npz:{path}", device=CPU)


class Counting(nn.Module):
    """A linear teacher that counts the images it is shown."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(256, 3)
        self.shown = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown += len(images)
        logits: torch.Tensor = self.linear(images.flatten(1).float() / 255)
        return logits


def teacher(seed: int = 0) -> Teacher:
    module = Counting(seed).eval()
    return Teacher("t", module, Input(1, 16, 16), 3, weights_hash(module), {})


def batch(data: Dataset, ids: torch.Tensor, view: int) -> Batch:
    return next(data.train.batches([(ids, view)], (16, 16)))


def test_cached_answers_are_the_live_ones_of_the_same_view(data: Dataset, tmp_path: Path) -> None:
    asked = teacher()
    cache = AnswerCache(asked, data, tmp_path)
    ids = torch.tensor([3, 700, 41, 1200])
    for view in (0, 5):
        cache.prepare([(ids, view)])
        shown = batch(data, ids, view)
        live = asked.logits(shown.images)
        assert torch.allclose(cache.logits(shown).float(), live, atol=1e-2)
        assert cache.logits(shown).dtype == torch.float16
    other = batch(data, ids, 5)
    assert not torch.equal(cache.logits(batch(data, ids, 0)), cache.logits(other))


def test_a_hit_gives_what_the_miss_gave(data: Dataset, tmp_path: Path) -> None:
    ids = torch.arange(0, 1200, 7)
    first = AnswerCache(teacher(), data, tmp_path)
    first.prepare([(ids, 2)])
    asked = teacher()
    second = AnswerCache(asked, data, tmp_path)
    second.prepare([(ids, 2)])
    shown = batch(data, ids, 2)
    assert torch.equal(first.logits(shown), second.logits(shown))
    assert isinstance(asked.module, Counting) and asked.module.shown == 0
    assert second.asked == 0 and first.asked > 0


def test_only_the_blocks_that_are_needed_are_filled(data: Dataset, tmp_path: Path) -> None:
    asked = teacher()
    cache = AnswerCache(asked, data, tmp_path)
    cache.prepare([(torch.tensor([BLOCK + 1]), 0)])
    assert isinstance(asked.module, Counting) and asked.module.shown == BLOCK
    cache.prepare([(torch.tensor([BLOCK + 2, 0]), 0)])
    assert asked.module.shown == 2 * BLOCK


def test_a_damaged_block_is_asked_again(data: Dataset, tmp_path: Path) -> None:
    ids = torch.arange(20)
    cache = AnswerCache(teacher(), data, tmp_path)
    cache.prepare([(ids, 0)])
    shown = batch(data, ids, 0)
    good = cache.logits(shown).clone()
    file = np.memmap(cache.folder / "view-000.f16", dtype=np.float16, mode="r+")
    file[:6] = 77.0
    file.flush()
    again = AnswerCache(teacher(), data, tmp_path)
    again.prepare([(ids, 0)])
    assert again.asked == BLOCK
    assert torch.equal(again.logits(shown), good)


def test_another_teacher_or_other_data_have_a_cache_of_their_own(
    data: Dataset, tmp_path: Path
) -> None:
    here = AnswerCache(teacher(0), data, tmp_path).folder
    assert AnswerCache(teacher(1), data, tmp_path).folder != here
    path = write_blobs(tmp_path / "other.npz", train=1503)
    other = load_data(f"npz:{path}", device=CPU)
    assert AnswerCache(teacher(0), other, tmp_path).folder != here
    reseeded = load_data(data.name, device=CPU, seed=1)
    assert AnswerCache(teacher(0), reseeded, tmp_path).folder != here
