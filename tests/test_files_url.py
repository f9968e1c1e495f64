"""Hosts with nothing in common but the storage and a URL for files; each has its own folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import KILLED_SEARCH, RECIPE, prepare

import nasdistill
from nasdistill import training
from nasdistill.api import join, stages
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.finals.pipeline import train_ahead
from nasdistill.recipe import load_recipe
from nasdistill.results import COUNTED, load_study
from nasdistill.study import Study
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.training import Run
from nasdistill.trials.context import open_context
from nasdistill.trials.plugins import load_plugins


class Hosts:
    """Two hosts: what they have in common, and a folder of each."""

    def __init__(self, folder: Path) -> None:
        self.one, self.two, self.shared = (folder / n for n in ("one", "two", "shared"))
        for each in (self.one, self.two, self.shared):
            each.mkdir()
        self.storage = f"sqlite:///{self.shared}/study.db"
        self.files = f"file://{self.shared}/files"
        self.stored = self.shared / "files/small"
        places = f"storage: {self.storage}\nfiles: {self.files}\nexperience: false\n"
        prepare(self.one, RECIPE + places)
        (self.two / "blobs.npz").write_bytes((self.one / "blobs.npz").read_bytes())

    def blocks(self) -> dict[str, int]:
        """The teacher's answers that are shared, each with the time when it was written."""
        blocks = sorted(self.shared.glob("files/.cache/*/view-*/*"))
        return {str(path): path.stat().st_mtime_ns for path in blocks}


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step at which each piece of training of this process begins."""
    steps, train = list[int](), training.train

    def recording(run: Run, until: int) -> Iterator[Any]:
        steps.append(run.step)
        return train(run, until)

    monkeypatch.setattr("nasdistill.training.train", recording)
    monkeypatch.setattr("nasdistill.training.teacher.train", recording)
    return steps


def killed(folder: Path, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLED_SEARCH), moment], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_trial_of_a_host_that_died_goes_on_at_its_last_rung_on_another(
    hosts: Hosts, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(hosts.one, "rungs")
    before, blocks = load_study("small", hosts.one / "studies"), hosts.blocks()
    (cut_off,) = [c for c in before.candidates if c.state == "running"]
    assert len(cut_off.rungs) == 1 and blocks
    step = torch.load(hosts.one / f"studies/small/trials/{cut_off.number}/trunk.pt")["step"]
    monkeypatch.setattr(stages, "LEADERLESS_SECONDS", 0.0)
    monkeypatch.chdir(hosts.two)
    event_list: list[Event] = []
    assert not join(
        "small", storage=hosts.storage, files=hosts.files, workers=1, on_event=event_list.append
    )
    assert trained[0] == step > 0, "the first rung was trained again"
    after = load_study("small", hosts.two / "studies")
    tried = [c for c in after.candidates if c.state in COUNTED]
    assert len(tried) == 7 and {c.state for c in tried} <= {"complete", "stopped"}
    goes_on = next(c for c in tried if c.number == cut_off.number)
    assert goes_on.rungs[:1] == cut_off.rungs and len(goes_on.rungs) > 1
    assert not list(hosts.stored.glob("trials/*/*")), "what ended leaves no checkpoint"
    all_blocks = hosts.blocks()
    assert blocks.items() <= all_blocks.items(), "a block was filled twice"
    views = [e.text.split()[2] for e in event_list if e.text.startswith("teacher answered")]
    sizes = [Path(block).stat().st_size for block in all_blocks.keys() - blocks.keys()]
    row = 3 * np.dtype(np.float16).itemsize
    assert sum(int(text) for text in views) == sum((size - 4) // row for size in sizes)


def test_a_final_of_a_host_that_died_is_trained_on_elsewhere_and_reported_where_it_was_begun(
    hosts: Hosts, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(hosts.one, "final")
    (checkpoint,) = hosts.one.glob("studies/small/finals/.work-*/final.pt")
    step = torch.load(checkpoint)["step"]
    monkeypatch.chdir(hosts.two)
    (hosts.two / "tiny.yaml").write_bytes((hosts.one / "tiny.yaml").read_bytes())
    (hosts.two / "own.py").write_bytes((hosts.one / "own.py").read_bytes())
    recipe = load_recipe(hosts.one / "recipe.yaml", {})
    study = Study.open(recipe, Path("studies"), "")
    train_ahead(open_context(study, load_plugins(recipe.import_file), lambda event: None))
    assert trained[0] == step > 0 and trained[-1] > 0
    trained.clear()
    monkeypatch.chdir(hosts.one)
    outcome = nasdistill.search(recipe)
    assert trained == [], "both finals were trained on the other host"
    assert not outcome.already_complete and outcome.record.state == "complete"
    assert [final.rank for final in outcome.record.finals] == [1, 2]
    assert not list(hosts.stored.glob("finals/.work-*/*"))
    monkeypatch.chdir(hosts.two)
    assert join("small", storage=hosts.storage, files=hosts.files), "it sees that all is done"
    there = load_study("small", hosts.two / "studies").finals
    assert [f.metrics for f in there] == [f.metrics for f in outcome.record.finals]
    assert nasdistill.search(recipe).report.exists()


def test_two_hosts_never_fill_a_block_twice(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hosts.one)
    recipe = load_recipe("recipe.yaml", {})
    context = open_context(
        Study.open(recipe, Path("studies"), ""), load_plugins(recipe.import_file), lambda _: None
    )
    caches = []
    for host in (hosts.one, hosts.two):
        study = Study.open(recipe, host / "studies", "")
        cache_folder = host / "studies/.cache"
        arguments = (context.teacher, context.dataset, cache_folder)
        caches.append(LogitCache(*arguments, files=study.files))
    ids = torch.arange(len(context.dataset.train))
    plan = [(ids, 0), (ids, 1), (ids, 2)]
    threads = [threading.Thread(target=cache.prepare, args=(plan,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(cache.asked for cache in caches) == 3 * len(ids)
    assert len(hosts.blocks()) == 3 * -(-len(ids) // 500)
    one, two = (
        np.concatenate([np.fromfile(path) for path in sorted(cache.folder.glob("view-*.f16"))])
        for cache in caches
    )
    assert np.array_equal(one, two) and one.any()


def test_a_block_that_was_damaged_on_the_way_is_filled_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hosts.one)
    recipe = load_recipe("recipe.yaml", {})
    study = Study.open(recipe, Path("studies"), "")
    context = open_context(study, load_plugins(recipe.import_file), lambda _: None)
    plan = [(torch.arange(100), 0)]
    arguments = (context.teacher, context.dataset)
    LogitCache(*arguments, hosts.one / "studies/.cache", files=study.files).prepare(plan)
    (block,) = [Path(path) for path in hosts.blocks()]
    content = bytearray(block.read_bytes())
    content[10] ^= 1
    block.write_bytes(content)
    for folder, asked in (("second", 500), ("third", 0)):
        cache = LogitCache(*arguments, hosts.one / "studies" / folder, files=study.files)
        shared = cache.folder.parent.with_name(".cache") / cache.folder.name
        monkeypatch.setattr(cache, "_shared", lambda v, b, at=shared: at / f"view-000/{b:06d}")
        cache.prepare(plan)
        assert cache.asked == asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": "/shared/studies"}, "--files: found '/shared/studies'; allowed: a URL such as"),
        ({"files": "sftp://me:zz-secret@host/x"}, r"'sftp://me:\*\*\*@host/x'; a password has no"),
        ({"files": "memory://x"}, "memory of one process"),
        ({"storage": None}, "SQLite in its folder, which they do not see; give --storage"),
    ],
)
def test_what_cannot_work_is_one_message_before_anything_begins(
    hosts: Hosts, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hosts.one)
    with pytest.raises(UserError, match=message) as raised:
        nasdistill.search(load_recipe("recipe.yaml", options))
    assert "zz-secret" not in str(raised.value)
    assert not (hosts.one / "studies/small").exists()


def test_a_search_that_cannot_begin_leaves_nothing_for_others(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hosts.one)
    with pytest.raises(UserError, match="keeps the limits"):
        nasdistill.search(load_recipe("recipe.yaml", {"max_params": 10}))
    assert not hosts.stored.exists() and not (hosts.one / "studies/small").exists()


def test_a_worker_is_told_what_it_lacks(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hosts.two)
    with pytest.raises(UserError, match="there is no small/recipe.yaml"):
        join("small", storage=hosts.storage, files=hosts.files)
    assert not list(hosts.two.glob("studies/*"))
    with pytest.raises(UserError, match="begin the study with --files URL"):
        join("small", storage=hosts.storage)
    monkeypatch.chdir(hosts.one)
    recipe = load_recipe("recipe.yaml", {})
    Study.open(recipe, Path("studies"), "")
    monkeypatch.chdir(hosts.two)
    Study.open(
        recipe.model_copy(update={"files": None, "storage": None, "space": "mlp"}),
        Path("studies"),
        "",
    )
    with pytest.raises(UserError, match="that of a study stored in its folder; join from another"):
        join("small", storage=hosts.storage, files=hosts.files)
