"""Devices, cores and threads."""

from __future__ import annotations

import math
import os
from pathlib import Path

import PIL
import pytest
import torch

from nasdistill.common import machine
from nasdistill.common.errors import UserError
from nasdistill.common.machine import (
    PACKAGES,
    cores,
    cpu_quota,
    default_workers,
    describe_machine,
    describe_versions,
    memory_headroom,
    pick_device,
    set_threads,
)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == expected
    with pytest.raises(UserError, match="allowed are auto, cpu, cuda, cuda:N"):
        pick_device("toaster")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {name}: this machine has no usable CUDA device"):
        pick_device(name)


def test_a_card_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0").index == 0
    with pytest.raises(UserError, match="--device cuda:3: this machine has 1 of them"):
        pick_device("cuda:3")


def test_workers_share_the_cores_that_this_process_may_use() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
    for workers in (1, 2, 1000):
        set_threads(workers)
        assert torch.get_num_threads() == max(1, cores() // workers)


@pytest.mark.parametrize(
    ("own", "limits", "granted"),
    [
        ("0::/\n", {"": "250000 100000"}, 2.5),
        ("0::/jobs/mine\n", {"jobs": "100000 50000", "jobs/mine": "400000 100000"}, 2.0),
        ("0::/jobs/mine\n", {"jobs": "max 100000", "jobs/mine": "max 100000"}, math.inf),
        ("0::/elsewhere\n", {"jobs": "100000 100000"}, math.inf),
        ("12:cpu:/jobs\n", {}, math.inf),
    ],
)
def test_a_container_s_quota_counts(
    own: str, limits: dict[str, str], granted: float, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for group, text in limits.items():
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text + "\n")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == granted


def test_a_container_s_memory_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/jobs/mine\n")
    assert memory_headroom(tmp_path / "cgroup", own) == math.inf
    for group, limit, usage, files in (("jobs", 5_000, 3_500, 500), ("jobs/mine", "max", 900, 0)):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {files}\n")
    assert memory_headroom(tmp_path / "cgroup", own) == 2_000
    (tmp_path / "cgroup/jobs/mine/memory.max").write_text("100\n")
    assert memory_headroom(tmp_path / "cgroup", own) == 0


def test_one_worker_for_each_core_unless_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(cores: int, free_gib: float, device: str = "cpu") -> int:
        monkeypatch.setattr(machine, "cores", lambda: cores)
        monkeypatch.setattr(machine, "free_bytes", lambda: int(free_gib * 2**30))
        return default_workers(torch.device(device))

    assert workers(2, 16) == 2 and workers(64, 500) == machine.MOST_WORKERS
    assert workers(8, 7) == 3 and workers(8, 0.5) == 1
    assert workers(8, 100, "cuda") == 1


def test_what_the_report_says_of_the_machine() -> None:
    about = describe_machine(torch.device("cpu"))
    assert about["cores"] == cores() and about["memory_gib"] > 0 and about["processor"]
    versions = describe_versions()
    assert versions["torch"] == torch.__version__.split("+")[0] or "+" in versions["torch"]
    assert set(versions) == {"python", *PACKAGES}
    assert versions["pillow"] == PIL.__version__
