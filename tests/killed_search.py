"""Runs a small search and kills its own process at a chosen moment. Started by test_resume.py."""

from __future__ import annotations

import os
import signal
import sys

import torch

import nasdistill
from nasdistill.common.events import Event


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(moment: str) -> None:
    """Searches with the recipe that test_resume.py wrote; `moment` is where to die, or `never`."""
    torch.set_num_threads(1)
    synced = {"count": 0}
    fsync = os.fsync

    def counting_fsync(descriptor: int) -> None:
        synced["count"] += 1
        if moment == "writing" and synced["count"] == 4:
            os.ftruncate(descriptor, 100)
            die()
        fsync(descriptor)

    os.fsync = counting_fsync

    trained: set[int | None] = set()

    def on_event(event: Event) -> None:
        if event.kind == "progress" and event.stage == "search":
            trained.add(event.trial)
            if moment == "trial" and len(trained) == 2:
                die()
        if moment == "rungs" and event.kind == "rung" and event.trial is not None:
            die()
        if moment == "final" and event.stage == "finals" and "epoch 3" in event.text:
            die()
        if moment == "control" and "begun fresh" in event.text and "epoch 3" in event.text:
            die()

    from nasdistill.recipe import load_recipe

    nasdistill.search(load_recipe("recipe.yaml", {}), on_event=on_event)


if __name__ == "__main__":
    main(sys.argv[1])
