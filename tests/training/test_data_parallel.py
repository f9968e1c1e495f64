"""Runs that several processes train, beside the same run on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import parallel_run
import pytest
import torch
from small_study import write_blobs
from torch import Tensor

from nasdistill.data import load_data
from nasdistill.training.data_parallel import DataParallel


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz", train=200, test=40)


def trained_by(
    processes: int, blobs: Path, out: Path, batch: int, micro_batch: int, device: str = "cpu"
) -> list[dict[str, Tensor]]:
    """The states after a run by several processes, one of each."""
    started = []
    for rank in range(processes):
        numbers = map(str, (rank, processes, batch, micro_batch))
        command = [sys.executable, parallel_run.__file__, str(blobs), device, *numbers, str(out)]
        path = os.pathsep.join(filter(None, sys.path))
        card = {} if device == "cpu" else {"CUDA_VISIBLE_DEVICES": str(rank)}
        environment = {**os.environ, "PYTHONPATH": path, **card}
        started.append(subprocess.Popen(command, env=environment))
    assert [process.wait(600) for process in started] == [0] * processes
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize(("processes", "batch", "micro_batch"), [(2, 39, 0), (3, 40, 16)])
def test_several_processes_do_what_one_does_with_the_same_batch(
    blobs: Path, tmp_path: Path, processes: int, batch: int, micro_batch: int
) -> None:
    data = load_data(f"npz:{blobs}", device=parallel_run.CPU)
    alone = parallel_run.trained(parallel_run.make(data, batch, micro_batch or None))
    first, *others = trained_by(processes, blobs, tmp_path, batch, micro_batch)
    for key, values in alone.items():
        torch.testing.assert_close(first[key], values, rtol=1e-4, atol=1e-5, msg=key)
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="takes two CUDA devices"
)
def test_two_cards_do_what_one_does_with_the_same_batch(blobs: Path, tmp_path: Path) -> None:
    data = load_data(f"npz:{blobs}", device=torch.device("cuda"))
    alone = parallel_run.trained(parallel_run.make(data, 39))
    first, other = trained_by(2, blobs, tmp_path, 39, 0, device="cuda")
    for key, values in alone.items():  # products may be of rounded factors (TF32)
        torch.testing.assert_close(first[key], values, rtol=1e-2, atol=1e-2, msg=key)
    assert all(torch.equal(first[key], other[key]) for key in first)


def test_every_row_of_a_batch_is_one_processs() -> None:
    groups = [DataParallel(rank, 3) for rank in range(3)]
    by_process = [group.own_rows(41, 16) for group in groups]
    assert [[len(rows) for rows in own] for own in by_process] == [[5, 5, 5], [5, 5, 4], [4, 4, 4]]
    together = torch.cat([rows for own in by_process for rows in own])
    assert together.sort().values.tolist() == list(range(41))
    [(ids, view)] = groups[2].divide([(torch.arange(100, 141), 7)], None)
    assert (ids.tolist(), view) == (list(range(128, 141)), 7)
