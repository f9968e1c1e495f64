from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import write_blobs
from torch import nn

import nasdistill
from nasdistill.common import events
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.common.types import Input
from nasdistill.data import Batch, Dataset, RandAugment, load_data
from nasdistill.models.inference import WHOLE, Inference
from nasdistill.recipe import load_recipe
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.teachers.logit_cache import BLOCK, LogitCache

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz", train=1500)
    return load_data(f"npz:{path}", device=CPU)


class Counting(nn.Module):
    """A linear teacher that counts its images."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(256, 3)
        self.count = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.count += len(images)
        logits: torch.Tensor = self.linear(images.flatten(1).float() / 255)
        return logits


def teacher(seed: int = 0) -> Teacher:
    module = Counting(seed).eval()
    return Teacher("t", module, Input(1, 16, 16), 3, weights_hash(module), {})


def batch(data: Dataset, ids: torch.Tensor, view: int) -> Batch:
    return next(data.train.batches([(ids, view)], (16, 16)))


def test_cached_logits_are_the_live_ones_of_the_same_view(data: Dataset, tmp_path: Path) -> None:
    own = teacher()
    cache = LogitCache(own, data, tmp_path)
    ids = torch.tensor([3, 700, 41, 1200])
    for view in (0, 5):
        cache.prepare([(ids, view)])
        examples = batch(data, ids, view)
        live = own.logits(examples.images)
        assert torch.allclose(cache.logits(examples).float(), live, atol=1e-2)
        assert cache.logits(examples).dtype == torch.float16
    other = batch(data, ids, 5)
    assert not torch.equal(cache.logits(batch(data, ids, 0)), cache.logits(other))


def test_a_block_is_always_asked_in_the_same_batches(data: Dataset, tmp_path: Path) -> None:
    sizes_of_calls: list[list[int]] = []
    for number, ids in enumerate((torch.tensor([3]), torch.arange(490))):
        own = teacher()
        own.use(Inference(96, False))
        sizes: list[int] = []
        own.module.register_forward_pre_hook(lambda _, args, into=sizes: into.append(len(args[0])))
        cache = LogitCache(own, data, tmp_path / str(number))
        cache.prepare([(ids, 0)])
        sizes_of_calls.append(sizes)
    assert sizes_of_calls[0] == sizes_of_calls[1] == [96] * 5 + [20]
    examples = batch(data, ids, 0)
    assert torch.allclose(cache.logits(examples).float(), own.logits(examples.images), atol=1e-2)


def test_a_slow_fill_tells_how_far_it_is(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.0)
    own = teacher()
    own.use(Inference(100, False))
    own.module.register_forward_hook(lambda *_: time.sleep(0.01))
    event_list: list[Event] = []
    LogitCache(own, data, tmp_path, emit=event_list.append).prepare([(torch.arange(1500), 0)])
    assert {(each.kind, each.stage, each.total) for each in event_list} == {
        ("progress", "answers", 1500)
    }
    done = [each.done for each in event_list]
    assert done == sorted(done)
    assert len(done) > 5


def test_a_hit_gives_the_logits_of_the_miss(data: Dataset, tmp_path: Path) -> None:
    ids = torch.arange(0, 1200, 7)
    first = LogitCache(teacher(), data, tmp_path)
    first.prepare([(ids, 2)])
    unused = teacher()
    second = LogitCache(unused, data, tmp_path)
    second.prepare([(ids, 2)])
    examples = batch(data, ids, 2)
    assert torch.equal(first.logits(examples), second.logits(examples))
    assert isinstance(unused.module, Counting) and unused.module.count == 0
    assert second.asked == 0 and first.asked > 0


def test_only_the_blocks_that_are_needed_are_filled(data: Dataset, tmp_path: Path) -> None:
    own = teacher()
    cache = LogitCache(own, data, tmp_path)
    cache.prepare([(torch.tensor([BLOCK + 1]), 0)])
    assert isinstance(own.module, Counting) and own.module.count == BLOCK
    cache.prepare([(torch.tensor([BLOCK + 2, 0]), 0)])
    assert own.module.count == 2 * BLOCK


def test_a_damaged_block_is_filled_again(data: Dataset, tmp_path: Path) -> None:
    ids = torch.arange(20)
    cache = LogitCache(teacher(), data, tmp_path)
    cache.prepare([(ids, 0)])
    examples = batch(data, ids, 0)
    good = cache.logits(examples).clone()
    file = np.memmap(cache.folder / "view-000.f16", dtype=np.float16, mode="r+")
    file[:6] = 77.0
    file.flush()
    again = LogitCache(teacher(), data, tmp_path)
    again.prepare([(ids, 0)])
    assert again.asked == BLOCK
    assert torch.equal(again.logits(examples), good)


@pytest.mark.parametrize("suffix", ["f16", "crc"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_files_that_are_cut_off_are_filled_again(
    data: Dataset, tmp_path: Path, suffix: str, share: float
) -> None:
    ids = torch.arange(len(data.train))
    cache = LogitCache(teacher(), data, tmp_path)
    cache.prepare([(ids, 0)])
    good = cache.logits(batch(data, ids, 0)).clone()
    path = cache.folder / f"view-000.{suffix}"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    again = LogitCache(teacher(), data, tmp_path)
    again.prepare([(ids, 0)])
    assert again.asked > 0
    assert torch.equal(again.logits(batch(data, ids, 0)), good)


def test_logits_of_another_teacher_or_view_are_not_taken_over(
    data: Dataset, tmp_path: Path
) -> None:
    ids = torch.arange(20)
    own, other = LogitCache(teacher(), data, tmp_path), LogitCache(teacher(1), data, tmp_path)
    own.prepare([(ids, 0), (ids, 1)])
    other.prepare([(ids, 0)])
    good = [own.logits(batch(data, ids, view)).clone() for view in (0, 1)]
    for suffix in ("f16", "crc"):
        first, second = (own.folder / f"view-00{view}.{suffix}" for view in (0, 1))
        second.write_bytes(first.read_bytes())
        first.write_bytes((other.folder / first.name).read_bytes())
    again = LogitCache(teacher(), data, tmp_path)
    again.prepare([(ids, 0), (ids, 1)])
    assert again.asked == 2 * BLOCK
    for view in (0, 1):
        assert torch.equal(again.logits(batch(data, ids, view)), good[view])


def test_another_teacher_other_data_or_other_views_have_a_cache_of_their_own(
    data: Dataset, tmp_path: Path
) -> None:
    here = LogitCache(teacher(0), data, tmp_path).folder
    assert LogitCache(teacher(0), data, tmp_path).folder == here
    assert LogitCache(replace(teacher(0), precision="bf16"), data, tmp_path).folder != here
    assert LogitCache(replace(teacher(0), code="timm 1"), data, tmp_path).folder != here
    assert LogitCache(replace(teacher(0), inference=WHOLE), data, tmp_path).folder == here
    for inference in (Inference(32, False), Inference(500, True)):
        run = replace(teacher(0), inference=inference)
        assert LogitCache(run, data, tmp_path).folder != here
    augmented = data.with_views(replace(data.views, rand_augment=RandAugment(1, 5)))
    assert LogitCache(teacher(0), augmented, tmp_path).folder != here
    assert LogitCache(teacher(1), data, tmp_path).folder != here
    path = write_blobs(tmp_path / "other.npz", train=1503)
    other = load_data(f"npz:{path}", device=CPU)
    assert LogitCache(teacher(0), other, tmp_path).folder != here
    reseeded = load_data(data.name, device=CPU, seed=1)
    assert LogitCache(teacher(0), reseeded, tmp_path).folder != here


# -- size on disk ----------------------------------------------------------------

HOLDER = """\
import sys
from pathlib import Path
from nasdistill.common.locks import hold

hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def filled(seed: int, data: Dataset, root: Path, limit: int | None = None) -> LogitCache:
    """A cache with one view of all examples."""
    cache = LogitCache(teacher(seed), data, root, limit=limit)
    cache.prepare([(torch.arange(len(data.train)), 0)])
    return cache


def left_behind(seed: int, data: Dataset, root: Path, used: int) -> Path:
    """The folder of a study that ended; `used` says when, in seconds."""
    folder = filled(seed, data, root).folder
    os.utime(folder / "key.json", (used, used))
    return folder


def size(root: Path) -> int:
    return sum(file.stat().st_size for file in root.glob("*/view-*"))


def test_what_was_used_least_recently_makes_room(data: Dataset, tmp_path: Path) -> None:
    younger = left_behind(1, data, tmp_path, used=2000)
    older = left_behind(2, data, tmp_path, used=1000)
    one = size(younger.parent) // 2
    cache = LogitCache(teacher(3), data, tmp_path, limit=2 * one)
    assert cache.view_bytes == one and older.exists(), "nothing is written yet"
    cache.prepare([(torch.tensor([0]), 0)])
    assert not older.exists() and younger.exists()
    assert size(tmp_path) == 2 * one
    cache.prepare([(torch.tensor([0]), 1)])
    assert not younger.exists() and size(tmp_path) == 2 * one


def test_using_a_cache_keeps_it(data: Dataset, tmp_path: Path) -> None:
    first = left_behind(1, data, tmp_path, used=1000)
    second = left_behind(2, data, tmp_path, used=2000)
    filled(1, data, tmp_path)
    filled(3, data, tmp_path, limit=size(tmp_path))
    assert first.exists() and not second.exists()


def test_a_smaller_limit_holds_from_the_start(data: Dataset, tmp_path: Path) -> None:
    folder = left_behind(1, data, tmp_path, used=1000)
    LogitCache(teacher(3), data, tmp_path, limit=size(tmp_path))
    assert folder.exists()
    LogitCache(teacher(3), data, tmp_path, limit=size(tmp_path) - 1)
    assert not folder.exists()


def test_what_was_removed_is_filled_again(data: Dataset, tmp_path: Path) -> None:
    ids = torch.tensor([3, 700, 41, 1200])
    examples = batch(data, ids, 0)
    first = filled(1, data, tmp_path)
    logits, folder = first.logits(examples).clone(), first.folder
    del first
    filled(2, data, tmp_path, limit=1)
    assert not folder.exists()
    again = filled(1, data, tmp_path)
    assert again.asked == len(data.train) and torch.equal(again.logits(examples), logits)


def test_a_living_process_keeps_what_it_uses(data: Dataset, tmp_path: Path) -> None:
    old = left_behind(1, data, tmp_path, used=1000)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, old / "key.json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    kept = filled(2, data, tmp_path, limit=1)
    assert old.exists() and kept.folder.exists(), "above the limit, but both are in use"
    other.kill()
    other.communicate(timeout=60)
    kept.prepare([(torch.tensor([0]), 1)])
    assert not old.exists() and kept.folder.exists()
    assert torch.isfinite(kept.logits(batch(data, torch.arange(5), 0))).all()


@pytest.mark.parametrize(
    ("options", "teachers", "needed", "views"),
    [({}, 1, 6_028, "--views 1"), ({"iterate": {"generations": 3}}, 5, 30_140, None)],
)
def test_a_study_whose_logits_cannot_be_kept_is_refused_before_the_teacher_is_run(
    here: Path, options: dict[str, object], teachers: int, needed: int, views: str | None
) -> None:
    recipe = load_recipe("recipe.yaml", {**options, "cache_size": "5k"})
    with pytest.raises(UserError) as refused:
        nasdistill.search(recipe)
    or_views = f", or {views} or fewer" if views else ""
    assert str(refused.value) == (
        f"--cache-size: found 5,000 bytes; the answers of {teachers} teacher(s) about 2 view(s) of "
        f"each example need {needed:,}. Allowed: --cache-size 1M or more{or_views}"
    )
    assert not Path("studies/small").exists() and size(Path("studies/.cache")) == 0
