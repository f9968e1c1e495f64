"""Files for OpenVINO, ExecuTorch and LiteRT: written, proven, timed, each in its own runtime."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_study import prepare
from torch import Tensor, nn

from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.deployment.formats import FORMATS
from nasdistill.deployment.runtime import FreshRuntime
from nasdistill.models import converters
from nasdistill.models.export import ExportError
from nasdistill.models.latency import check_engine, measure_latencies
from nasdistill.recipe import load_recipe

QUICK = {
    "trials": 1,
    "top_k": 1,
    "min_accuracy": 0,
    "rungs": {"first": "100 images", "count": 1},
    "final_budget": "2 epochs",
    "experience": False,
}
PACKAGES = {
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
}
FILES = {"openvino": ".xml", "executorch": ".pte", "litert": ".tflite"}
GREY = Input(1, 16, 16)


def skip_without(name: str) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, before = tmp_path_factory.mktemp("searched"), Path.cwd()
    os.chdir(prepare(folder))
    api.search(load_recipe("recipe.yaml", QUICK))
    os.chdir(before)
    yield folder


@pytest.fixture
def final(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(searched, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("studies/small/finals/1")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_proven_in_its_own_runtime(name: str, final: Path) -> None:
    skip_without(name)
    made = api.export("small/1", format=name)
    assert made["path"] == f"small-1{FILES[name]}" and made["problems"] == []
    assert made["largest_difference"] < 1e-4 and made["test_accuracy"] > 0.7
    assert made["engine"].split()[0] == FORMATS[made["format"]].engine
    batches = [row["batch"] for row in made["latency"]]
    assert batches == ([1, 64] if name == "openvino" else [1])
    assert name == "openvino" or "one picture at a time" in made["remarks"]["text"][0]
    parts = [path for path in Path().glob("small-1.*") if path.is_file()]
    assert sum(path.stat().st_size for path in parts) == made["bytes"]
    assert not list(final.parent.glob(".*.tmp"))

    stamp = (final / FORMATS[made["format"]].file).stat().st_mtime_ns
    api.export("small/1", format=name, out=Path(f"again{FILES[name]}"))  # is not made anew
    assert (final / FORMATS[made["format"]].file).stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"small-1.* exists already"):
        api.export("small/1", format=name)

    profiled = api.profile(made["path"])
    assert profiled["inputs"] == {"images": [1, 1, 16, 16]}
    assert profiled["latency"]["engine"] == name and profiled["latency"]["median_ms"] > 0
    says = metadata_of(Path(made["path"]))
    assert says["study"] == "small" and json.loads(says["classes"]) == ["0", "1", "2"]


def metadata_of(path: Path) -> dict[str, str]:
    if path.suffix != ".xml":
        says: dict[str, str] = json.loads(path.with_name(path.name + ".json").read_text())
        return says
    import openvino

    info = openvino.Core().read_model(path).get_rt_info(["nasdistill"])
    known: dict[str, str] = info.value
    return known


def test_parts_that_exist_are_not_replaced(final: Path) -> None:
    skip_without("openvino")
    Path("small-1.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"small-1\.bin exists already; give another --out"):
        api.export("small/1", format="openvino")
    assert Path("small-1.bin").read_bytes() == b"mine" and not Path("small-1.xml").exists()


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_told(name: str, tmp_path: Path) -> None:
    skip_without(name)
    path = tmp_path / f"broken{FILES[name]}"
    path.write_bytes(b"nothing that runs")
    with FreshRuntime(path, name, 1) as runtime:  # type: ignore[arg-type]
        with pytest.raises(UserError, match="its own runtime cannot run it"):
            runtime.answers(np.zeros((1, 1, 16, 16), np.uint8))
    with pytest.raises(UserError, match=f"{name} cannot load it"):
        api.profile(str(path))


@pytest.mark.parametrize("name", FILES)
def test_engines_time_modules_and_what_they_take(name: str, tmp_path: Path) -> None:
    skip_without(name)
    models = {"one": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))}
    for batch in (1, 3):
        measured = measure_latencies(models, {"one": GREY}, engine=name, batch=batch, seconds=0.01)[
            "one"
        ]
        assert (measured.engine, measured.batch) == (name, batch) and measured.median_ms > 0


def test_another_batch_than_the_file_has_is_refused(tmp_path: Path) -> None:
    skip_without("executorch")
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    path = tmp_path / "net.pte"
    path.write_bytes(converters.executorch_program(module, GREY, 2))
    with pytest.raises(UserError, match=r"--batch: found 1; .*net\.pte takes 2 at once"):
        api.profile(str(path))
    assert api.profile(str(path), batch=2)["inputs"] == {"images": [2, 1, 16, 16]}


class Odd(nn.Module):
    """Uses an operator that no runtime of devices has."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images)


def odd_net() -> nn.Module:
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(1, 4, 3))
    net.add_module("waves", Odd())
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(784, 3))
    return net


@pytest.mark.parametrize("name", ["executorch", "litert"])
def test_an_operator_that_a_runtime_lacks_is_named_with_its_layer(name: str) -> None:
    skip_without(name)
    convert: dict[str, Any] = {
        "executorch": converters.executorch_program,
        "litert": converters.litert_model,
    }
    message = rf"{name} lacks the operator aten\.special_bessel_j0\S*, which is used in waves\. "
    with pytest.raises(ExportError, match=message):
        convert[name](odd_net(), GREY)


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    skip_without("openvino")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Det", ["images"], ["logits"], name="head/det")],
        "odd",
        [helper.make_tensor_value_info("images", floats, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", floats, ["batch", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match="openvino lacks the operator Det, .* used in head/det"):
        converters.write_openvino(tmp_path / "odd.onnx", {}, tmp_path / "odd.xml")
    assert not (tmp_path / "odd.xml").exists()


def test_what_is_not_installed_is_told_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="'openvino': openvino is not installed; run `pip install"):
        check_engine("openvino")
    with pytest.raises(UserError, match=r"litert: litert_torch and ai_edge_litert are not inst"):
        api.export("any/1", format="litert")
    check_engine("torch")
    check_engine("command:ssh board")


def test_engines_can_be_named_in_a_recipe() -> None:
    for engine in FILES:
        assert load_recipe(None, {"latency_engine": engine}).latency_engine == engine
    with pytest.raises(UserError, match="openvino, executorch, litert"):
        load_recipe(None, {"latency_engine": "tflite"})
