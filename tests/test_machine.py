"""Devices, cores and threads."""

from __future__ import annotations

import os

import pytest
import torch

from nasdistill.errors import UserError
from nasdistill.machine import (
    PACKAGES,
    cores,
    describe_machine,
    describe_versions,
    pick_device,
    set_threads,
)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == wanted
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
    assert cores() == len(os.sched_getaffinity(0))
    for workers in (1, 2, 1000):
        set_threads(workers)
        assert torch.get_num_threads() == max(1, cores() // workers)


def test_what_the_report_says_of_the_machine() -> None:
    about = describe_machine(torch.device("cpu"))
    assert about["cores"] == cores() and about["memory_gib"] > 0 and about["processor"]
    versions = describe_versions()
    assert versions["torch"] == torch.__version__.split("+")[0] or "+" in versions["torch"]
    assert set(versions) == {"python", *PACKAGES}
