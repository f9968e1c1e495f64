"""Files of a final: written whole, proven in their own runtimes, made anew only where missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from small_study import prepare

from nasdistill import api
from nasdistill.common.errors import UserError, disk_problem
from nasdistill.common.events import Event
from nasdistill.common.types import FormatName
from nasdistill.data import Dataset, load_data
from nasdistill.deployment import files, int8
from nasdistill.deployment.calibration import calibration_of, even_sample
from nasdistill.deployment.files import Setting, make_file
from nasdistill.deployment.formats import FORMATS, check_formats
from nasdistill.deployment.int8 import Tried
from nasdistill.deployment.runtime import FreshRuntime
from nasdistill.recipe import load_recipe
from nasdistill.results.files import problems_of

QUICK = {
    "trials": 1,
    "top_k": 1,
    "min_accuracy": 0,
    "rungs": {"first": "100 images", "count": 1},
    "final_budget": "2 epochs",
    "experience": False,
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a study of one final, made with an int8 file."""
    folder, before = tmp_path_factory.mktemp("searched"), Path.cwd()
    os.chdir(prepare(folder))
    api.search(load_recipe("recipe.yaml", {**QUICK, "formats": "onnx-int8"}))
    os.chdir(before)
    yield folder


@pytest.fixture
def final(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The final's folder in a copy of its study, which is the current folder."""
    shutil.copytree(searched, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("studies/small/finals/1")


@pytest.fixture
def setting(final: Path) -> Setting:
    return Setting("small", blobs(), "credits", "accuracy", 0.5, 1, None, lambda event: None)


def blobs() -> Dataset:
    return load_data("npz:blobs.npz", device=torch.device("cpu"), seed=0)


def metrics_of(final: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((final / "metrics.json").read_text())
    return content


def test_every_format_can_be_named_in_a_recipe() -> None:
    assert set(FORMATS) == set(get_args(FormatName))
    with pytest.raises(UserError, match="formats"):
        load_recipe(None, {"formats": "onnx-int4"})


def test_the_proof_of_an_int8_file_is_what_onnxruntime_makes_of_it(final: Path) -> None:
    record = metrics_of(final)["files"]["onnx-int8"]
    test = blobs().test
    session = onnxruntime.InferenceSession(str(final / "model-int8.onnx"))
    [batch] = test.batches([(torch.arange(len(test)), None)], (16, 16))
    pictures = batch.images.numpy().astype(np.float32) / np.float32(255)
    (logits,) = session.run(None, {"images": pictures})
    right = float((logits.argmax(1) == test.labels.numpy()).mean())
    assert record["test_accuracy"] == right > 0.8
    (fp32,) = onnxruntime.InferenceSession(str(final / "model.onnx")).run(
        None, {"images": pictures}
    )
    assert record["agreement"] == float((logits.argmax(1) == fp32.argmax(1)).mean())
    apart = np.abs(logits - fp32)
    assert record["largest_difference"] == pytest.approx(apart.max(), rel=0.05)
    assert record["mean_difference"] == pytest.approx(apart.mean(), rel=0.05)
    size = (final / "model-int8.onnx").stat().st_size
    assert record["bytes"] == size < 0.6 * (final / "model.onnx").stat().st_size
    assert [(row["batch"], row["threads"]) for row in record["latency"]] == [(1, 1), (64, 1)]
    assert {node.op_type for node in onnx.load(final / "model-int8.onnx").graph.node} >= {
        "QuantizeLinear",
        "DequantizeLinear",
    }


def test_onnx_files_say_what_they_are(final: Path) -> None:
    for name in ("model.onnx", "model-int8.onnx"):
        session = onnxruntime.InferenceSession(str(final / name))
        metadata = session.get_modelmeta().custom_metadata_map
        description = json.loads((final / "input.json").read_text())
        assert json.loads(metadata["classes"]) == description.pop("classes")
        assert json.loads(metadata["input"]) == description
        assert metadata["study"] == "small" and metadata["nasdistill"]
        assert metadata["fingerprint"] == metrics_of(final)["fingerprint"]


def test_the_page_classifies_a_picture_without_nasdistill(final: Path) -> None:
    page = (Path(api.__file__).parents[2] / "docs" / "deploy.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    Path("mobile-1-int8.onnx").write_bytes((final / "model-int8.onnx").read_bytes())
    [batch] = blobs().test.batches([(torch.arange(1), None)], (16, 16))
    pixels = batch.images.numpy()
    Image.fromarray(pixels[0, 0]).save("picture.png")
    with FreshRuntime(final / "model-int8.onnx", "onnx-int8", 1) as runtime:
        label = int(runtime.answers(pixels).argmax())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == blobs().classes[label], done.stderr
    assert "nasdistill" not in code


def test_a_search_goes_on_with_the_files_that_are_missing(final: Path) -> None:
    stamp = (final / "model-int8.onnx").stat().st_mtime_ns
    (final.parent / ".1-onnx-fp16.tmp").mkdir()  # of a process that was killed
    (final.parent / ".1-onnx-fp16.tmp" / "model-fp16.onnx").write_bytes(b"half")
    more = {**QUICK, "formats": "onnx-int8,onnx-fp16,torch-export"}
    outcome = api.search(load_recipe("recipe.yaml", more))
    assert not outcome.already_complete and outcome.record.state == "complete"
    records = metrics_of(final)["files"]
    assert set(records) == {"onnx-int8", "onnx-fp16", "torch-export"}
    assert (final / "model-int8.onnx").stat().st_mtime_ns == stamp
    assert all(records[n]["test_accuracy"] > 0.8 and not records[n]["problems"] for n in records)
    assert records["torch-export"]["largest_difference"] < 1e-4
    assert not list(final.parent.glob(".*.tmp"))
    assert api.search(load_recipe("recipe.yaml", more)).already_complete
    assert "What ships" in outcome.report.read_text()


def test_export_copies_the_file_and_replaces_nothing(final: Path) -> None:
    made = api.export("small/1", format="onnx-int8")
    assert made["path"] == "small-1-int8.onnx"
    assert Path(made["path"]).read_bytes() == (final / "model-int8.onnx").read_bytes()
    strict = api.export("small/1", format="onnx-int8", out=Path("b.onnx"), max_loss=-100)
    assert strict["problems"] and not made["problems"]
    with pytest.raises(UserError, match=r"small-1-int8\.onnx exists already; give another --out"):
        api.export("small", 1, "onnx-int8")
    assert api.export("small", 1, out=Path("a.onnx"))["test_accuracy"] > 0.8
    with pytest.raises(UserError, match=r"--out b\.tflite: a file of --format onnx ends in \.onnx"):
        api.export("small", 1, out=Path("b.tflite"))
    with pytest.raises(UserError, match=r"a\.onnx' is a file, neither STUDY/RANK nor the folder"):
        api.export("a.onnx", format="onnx-int8")
    with pytest.raises(UserError, match="did you mean 'onnx-int8'"):
        api.export("small/1", format="onnx-int9")


def test_a_file_that_prepares_pictures_is_listed_in_card_and_report(final: Path) -> None:
    card = (final / "README.md").read_text()
    assert card.count("## Files") == 1 and "- `model-int8.onnx`: onnxruntime " in card
    api.export("small/1", with_preprocessing=True)
    record = metrics_of(final)["files"]["onnx-with-preprocessing"]
    again = (final / "README.md").read_text()
    assert again.startswith(card.partition("<!-- files")[0]) and again.count("## Files") == 1
    assert "- `model-int8.onnx`: " in again and f"{record['bytes']:,} bytes, test accu" in again
    takes = "takes image: one picture as decoded and upright, uint8 [height, width, channels]"
    proof = f"prepares it as Pillow {record['preparation']['pillow']} on 28 pictures of odd sizes"
    for page in (again, api.report("small").read_text()):
        assert takes in page and proof in page
    metrics = metrics_of(final)  # as an earlier release left it
    del metrics["files"]["onnx-with-preprocessing"]["remarks"]["takes"]
    (final / "metrics.json").write_text(json.dumps(metrics))
    (final / "README.md").write_text(f"# Mine\n{again.partition('distilled')[2]}\nMore of mine.\n")
    api.export("small/1", format="torch-export")
    edited = (final / "README.md").read_text()
    assert edited.startswith("# Mine\n") and edited.endswith("\nMore of mine.\n")
    assert "- `model.pt2`: torch " in edited and edited.count("## Files") == 1
    assert takes not in edited and proof in edited


def test_without_the_data_what_needs_none_is_written_and_says_so(final: Path) -> None:
    Path("blobs.npz").unlink()
    events: list[Event] = []
    made = api.export("small/1", format="torch-export", on_event=events.append)
    assert made.get("test_accuracy") is None and made["largest_difference"] < 1e-4
    assert any("accuracy is not measured" in event.text for event in events)
    (final / "model-int8.onnx").unlink()
    with pytest.raises(UserError, match="Pictures of the study's data are needed"):
        api.export("small/1", format="onnx-int8")


def test_a_full_disk_leaves_no_half_written_file(
    final: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    (final / "model-int8.onnx").unlink()
    before = {path: path.read_bytes() for path in final.iterdir()}
    whole = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        whole(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        make_file(final, "onnx-int8", setting)
    assert disk_problem(error.value) is not None
    assert disk_problem(OSError(errno.ENOSPC, "full", "from", None, "to")) == "full: to"
    assert {path: path.read_bytes() for path in final.iterdir()} == before
    assert not [p for p in final.parent.iterdir() if p.name.endswith(".tmp")]


def test_what_cannot_be_made_is_told_once_and_the_others_are_made(
    final: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(source: object, path: Path) -> dict[str, Any]:
        raise RuntimeError("operator Foo is not known")

    broken = {**FORMATS, "onnx-fp16": replace(FORMATS["onnx-fp16"], write=lacking)}
    monkeypatch.setattr(files, "FORMATS", broken)
    events: list[Event] = []
    files.make_files(final, ("onnx-fp16", "torch-export"), replace(setting, emit=events.append))
    warned = [event.text for event in events if event.kind == "warning"]
    reason = "onnx-fp16: the model cannot be written (operator Foo is not known)"
    assert warned == [f"final 1: no onnx-fp16 file: {reason}"]
    records = metrics_of(final)["files"]
    assert records["onnx-fp16"] == {"failed": reason} and records["torch-export"]["file"]
    assert files.missing_files(final, metrics_of(final), ("onnx-fp16", "torch-export")) == []


def test_files_are_judged_by_what_they_may_lose_now(final: Path) -> None:
    """A study goes on with another --max-loss: no file is made anew, but its verdict is."""
    metrics = metrics_of(final)
    metrics["files"]["onnx-int8"]["loss_points"] = 0.4
    (final / "metrics.json").write_text(json.dumps(metrics))
    problem = "loses 0.40 points against fp32; allowed are 0.1"
    for max_loss, problems in ((0.1, [problem]), (0.5, [])):
        changed = {**QUICK, "formats": "onnx-int8", "max_loss": max_loss}
        outcome = api.search(load_recipe("recipe.yaml", changed))
        assert outcome.already_complete
        assert outcome.record.finals[0].metrics["files"]["onnx-int8"]["problems"] == problems
        assert (f'class="bad">✗ {problem}' in outcome.report.read_text()) == bool(problems)


def test_calibration_on_one_class_is_refused(setting: Setting) -> None:
    data = setting.dataset
    assert data is not None
    images = torch.zeros(20, 1, 16, 16, dtype=torch.uint8)
    one = data.with_training(images, np.zeros(20, np.int64), "one")
    with pytest.raises(UserError, match="are all of the class '0'"):
        calibration_of(one, "accuracy", synthetic=False)
    about = calibration_of(one, "accuracy", synthetic=True).about
    assert "from the score split (no real picture was learned from)" in about


def test_small_classes_are_wholly_in_a_sample() -> None:
    labels = torch.tensor([0] * 90 + [1] * 6 + [2] * 4)
    ids = even_sample(labels, 20)
    assert torch.bincount(labels[ids]).tolist() == [10, 6, 4]
    assert ids.tolist() == sorted(ids.tolist()) == even_sample(labels, 20).tolist()


def test_an_old_opset_is_refused(final: Path, setting: Setting) -> None:
    (final / "model-int8.onnx").unlink()
    model = onnx.load(final / "model.onnx")
    model.opset_import[0].version = 12
    onnx.save(model, final / "model.onnx")
    with pytest.raises(UserError, match="opset 12; weights quantised per channel need 13"):
        make_file(final, "onnx-int8", setting)


def test_a_runtime_that_is_not_installed_is_told_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="run `pip install onnx onnxruntime`"):
        check_formats(["onnx-int8"])


def test_a_file_that_its_runtime_cannot_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with FreshRuntime(tmp_path / "broken.onnx", "onnx", 1) as runtime:
        with pytest.raises(UserError, match=r"broken\.onnx: its own runtime cannot run it \("):
            runtime.answers(np.zeros((1, 1, 4, 4), np.uint8))


def test_what_is_wrong_with_a_file_is_said() -> None:
    limits = {"bytes": {"limit": 100.0, "value": 120, "ok": False}}
    figures = {"loss_points": 0.61, "limits": limits, "largest_difference": float("nan")}
    assert problems_of(figures, 0.5) == [
        "loses 0.61 points against fp32; allowed are 0.5",
        "breaks the limit on bytes: 120; allowed is 100 at most",
        "a logit is no finite number",
    ]
    assert problems_of({"limits": {}, "largest_difference": 0.1, "loss_points": 0.61}, 0.7) == []


@pytest.mark.parametrize(
    ("gained", "lost", "saved", "sensitive"),
    [(9, 0, 100, True), (3, 0, 100, False), (30, 21, 100, False), (8, 0, 900, False)],
)
def test_a_layer_is_sensitive_if_it_costs_more_than_it_saves(
    gained: int, lost: int, saved: int, sensitive: bool
) -> None:
    """Of 1,000 pictures; all of int8 saves 1,000 bytes, which are worth a point."""
    labels = torch.zeros(1000, dtype=torch.int64)

    def tried(right: torch.Tensor, content: int) -> Tried:
        logits = torch.stack([right.float(), 1 - right.float()], dim=1)
        return Tried(bytes(content), logits, float(right.float().mean()), 0.0)

    before = torch.ones(1000, dtype=torch.bool)
    before[:gained] = False
    after = torch.ones(1000, dtype=torch.bool)
    after[gained : gained + lost] = False

    class Known:
        max_loss, fp32_bytes = 1.0, 1500

        class calibration:  # noqa: N801
            score_labels = labels

    result = int8._is_sensitive(Known, tried(before, 500), tried(after, 500 + saved))  # type: ignore[arg-type]
    assert result is sensitive


def test_any_onnx_file_is_profiled(final: Path) -> None:
    figures = api.profile(str(final / "model.onnx"), batch=3)
    assert figures["inputs"] == {"images": [3, 1, 16, 16]}
    assert figures["bytes"] == (final / "model.onnx").stat().st_size
    normalisation = 2
    params = metrics_of(final)["params"]
    assert figures["params"] == params + normalisation
    assert figures["latency"]["batch"] == 3 and figures["latency"]["median_ms"] > 0
    quantised = api.profile(str(final / "model-int8.onnx"))
    assert quantised["params"] == figures["params"]
    Path("no.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"no\.onnx: ONNX Runtime cannot load it"):
        api.profile("no.onnx")
    Path("no.pt2").write_bytes(b"no program")
    with pytest.raises(UserError, match=r"'no\.pt2' is neither a final, an architecture\.json nor"):
        api.profile("no.pt2")
