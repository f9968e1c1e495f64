"""Makes the small study that later releases must report, go on with and distil from.

    python tests/regression/make_old_study.py tests/regression/study_0.1

Run once with the release whose studies must stay readable. The study is whole, with a final and an
audit; then more trials were asked for, and the process died within one of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from record_study import HELD_DOWN, TEACHER, write_inputs

SPACE = """\
name: tiny
family: mlp
description: A few multi-layer perceptrons.
parameters:
  activation: {choice: [relu, gelu]}
  dropout: {choice: [0.0, 0.1]}
  layers:
    choice:
      one: {widths: [{choice: [8, 12, 16, 24, 32, 64]}]}
      two: {widths: [{choice: [16, 32, 64]}, {choice: [16, 32]}]}
"""

RECIPE = """\
space: tiny.yaml
data: npz:blobs.npz
import: own.py
teacher: bars
study: old
trials: 5
top_k: 1
minimize: [params]
max_params: 10k
min_accuracy: 0.4
rungs: {first: 200 images, eta: 2, count: 3}
final_budget: 2 epochs
batch_size: 50
views: 2
precision: fp32
device: cpu
workers: 1
stopping: false
"""

DIE_IN_A_TRIAL = """
import os, signal
import nasdistill.api
def on_event(event):
    if event.kind == "rung" and event.trial is not None:
        os.kill(os.getpid(), signal.SIGKILL)
nasdistill.api.resume("old", overrides={"trials": 7}, on_event=on_event)
"""


def prepare(folder: Path) -> None:
    """Data, teacher, space and recipe."""
    write_inputs(folder, "mobile")
    (folder / "own.py").write_text(TEACHER)
    (folder / "tiny.yaml").write_text(SPACE)
    (folder / "recipe.yaml").write_text(RECIPE)


def main(out: Path) -> None:
    """Makes the study in an empty folder and copies it to `out`."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        prepare(folder)
        for code in (
            "import nasdistill; from nasdistill.recipe import load_recipe; "
            "nasdistill.search(load_recipe('recipe.yaml', {}))",
            "from nasdistill import api; api.audit('old', count=3, repeats=1)",
            DIE_IN_A_TRIAL,
        ):
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=folder, env={**os.environ, **HELD_DOWN}
            )
            assert done.returncode in (0, -signal.SIGKILL), done
        shutil.copytree(folder / "studies" / "old", out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
