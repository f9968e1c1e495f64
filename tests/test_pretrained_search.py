"""A search of nets that begin with their own weights: whole, killed and gone on with, loaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from pretrained_space import EFFICIENT, RESIDUAL, SEARCH, prepare_pretrained
from small_study import KILLED_SEARCH

import nasdistill
from nasdistill import api
from nasdistill.api import pretrained_weights
from nasdistill.cli.display import study_summary
from nasdistill.results import load_study
from nasdistill.space import SearchSpace

RECIPE = SEARCH.replace("top_k: 2", "top_k: 1") + "baseline: true\n"


def run(folder: Path, moment: str) -> int:
    # Two threads that share such small layers wait for each other, long where a machine is busy.
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, str(KILLED_SEARCH), moment],
        cwd=folder,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare_pretrained(tmp_path_factory.mktemp("done"), RECIPE)
    assert run(folder, "never") == 0
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    record = load_study("small", folder / "studies")
    assert record.state == "complete"
    (final,) = record.finals
    rivals = {name: final.metrics[name]["test_accuracy"] for name in ("baseline", "fresh")}
    trials = [(c.fingerprint, [(r.accuracy, r.loss) for r in c.rungs]) for c in record.candidates]
    return {"trials": trials, "test": final.metrics["test_accuracy"], **rivals}


def test_results_say_where_students_began(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = load_study("small", done / "studies")
    assert {c.architecture["values"]["model"] for c in record.candidates} == {EFFICIENT, RESIDUAL}
    (final,) = record.finals
    m: Any = json.loads((final.folder / "metrics.json").read_text())
    model = json.loads((final.folder / "architecture.json").read_text())["values"]["model"]
    assert m["begin"] == "pretrained" and m["learning_rate"] == 0.001
    assert m["begin_weights"].startswith(f"{model} (file ")
    assert set(m["seconds"]) == {"distill", "baseline", "fresh", "test", "export"}
    assert all(0 < m[name]["test_accuracy"] <= 1 for name in ("baseline", "fresh"))
    card = (final.folder / "README.md").read_text()
    assert f"It began with weights: {model} (file " in card
    assert f"distilled from fresh weights: test accuracy {m['fresh']['test_accuracy']:.4f}" in card
    assert study_summary(record)["begin"] == "pretrained"
    monkeypatch.chdir(done)
    page = api.report("small").read_text()
    assert "accuracy from fresh weights (control)" in page
    assert "Where students begin" in page and "efficient.safetensors" in page


def test_a_final_needs_its_library_and_nothing_else(done: Path, tmp_path: Path) -> None:
    final = load_study("small", done / "studies").finals[0].folder
    alone = shutil.copytree(final, tmp_path / "final")
    program = "import sys, nasdistill; print(nasdistill.load(sys.argv[1]).net.net.num_classes)"
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    loaded = subprocess.run(
        [sys.executable, "-c", program, str(alone)],
        cwd=tmp_path,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "3"
    arrays = np.load(done / "blobs.npz")
    images = arrays["test_images"][:, None].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(str(alone / "model.onnx"))
    (logits,) = session.run(None, {"images": images})
    with torch.inference_mode():
        ours = nasdistill.load(alone)(torch.from_numpy(images)).numpy()
    assert np.allclose(ours, logits, atol=1e-3)
    share = float((logits.argmax(axis=1) == arrays["test_labels"]).mean())
    assert share == pytest.approx(json.loads((alone / "metrics.json").read_text())["test_accuracy"])


def test_killed_in_the_control_and_gone_on_with(done: Path, tmp_path: Path) -> None:
    folder = prepare_pretrained(tmp_path, RECIPE)
    assert run(folder, "control") == -signal.SIGKILL
    (work,) = folder.glob("studies/small/finals/.work-*/")
    assert (work / "fresh.pt").exists()
    assert "fresh" not in json.loads((work / "seconds.json").read_text())
    assert run(folder, "never") == 0
    assert outcome(folder) == outcome(done)


def test_where_the_weights_of_a_space_lie(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace.load(str(done / "own.yaml"))
    file = str(done / "weights" / "efficient.safetensors")
    assert pretrained_weights(space)[EFFICIENT] == {"file": file, "address": None}
    assert pretrained_weights(SearchSpace.load("mlp")) == {}
    monkeypatch.chdir(done)
    shown = subprocess.run(
        [sys.executable, "-m", "nasdistill", "spaces", "own.yaml", "--size", "16"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pretrained weights:" in shown and "here: weights/efficient.safetensors" in shown
