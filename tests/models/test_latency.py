"""Engines that measure latency."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.export import quick_onnx
from nasdistill.models.latency import Latency, measure_latencies

COLOUR = Input(3, 16, 16)


def tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_engines_measure_side_by_side(engine: str) -> None:
    models = {"one": tiny(), "two": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())}
    measured = measure_latencies(
        models, {"one": COLOUR, "two": COLOUR}, engine=engine, batch=2, seconds=0.01
    )
    assert list(measured) == ["one", "two"]
    for latency in measured.values():
        assert (latency.engine, latency.batch, latency.threads) == (engine, 2, 1)
        assert 0 < latency.q1_ms <= latency.median_ms <= latency.q3_ms < math.inf
        assert latency.repeats >= 20
    assert measured["one"].repeats == measured["two"].repeats


def test_onnx_file_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(quick_onnx(tiny(), COLOUR))
    measured = measure_latencies(
        {"file": path}, {"file": COLOUR}, engine="onnxruntime", seconds=0.01
    )
    assert measured["file"].repeats >= 20


def test_unknown_engine() -> None:
    with pytest.raises(
        UserError, match="'onnx': allowed are onnxruntime, openvino, executorch, litert, torch, "
    ):
        measure_latencies({"a": tiny()}, {"a": COLOUR}, engine="onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_engine_without_one() -> None:
    with pytest.raises(UserError, match="no usable CUDA device"):
        measure_latencies({"a": tiny()}, {"a": COLOUR}, engine="cuda")


def command(folder: Path, body: str) -> str:
    program = folder / "engine.py"
    program.write_text(f"import sys\nfrom pathlib import Path\n{body}\n")
    return f"command:{sys.executable} {program}"


def test_command_reads_milliseconds_and_gets_the_model(tmp_path: Path) -> None:
    copy = tmp_path / "seen.onnx"
    engine = command(
        tmp_path,
        f"Path({str(copy)!r}).write_bytes(Path(sys.argv[-1]).read_bytes())\n"
        "print('1.0\\n2.0\\n3.0\\n4.0\\n5.0')",
    )
    measured = measure_latencies({"a": tiny()}, {"a": COLOUR}, engine=engine)["a"]
    assert measured == Latency(engine, 1, 0, 3.0, 1.5, 4.5, 5, 1.0)
    again = measure_latencies({"b": copy}, {"b": COLOUR}, engine="onnxruntime", seconds=0.01)
    assert again["b"].repeats >= 20


def test_command_with_one_number(tmp_path: Path) -> None:
    engine = command(tmp_path, "print(2.5)")
    latency = measure_latencies({"a": tiny()}, {"a": COLOUR}, engine=engine)["a"]
    assert latency.q1_ms == latency.median_ms == latency.q3_ms == 2.5
    assert latency.repeats == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('no such board')", "failed: no such board"),
        ("print('fast')", "failed: could not convert"),
        ("print()", "printed no milliseconds"),
        ("print(-1.0)", "printed no milliseconds"),
        ("print('nan')", "printed no milliseconds"),
    ],
)
def test_commands_that_fail(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        measure_latencies({"a": tiny()}, {"a": COLOUR}, engine=command(tmp_path, body))


def test_command_that_is_not_there() -> None:
    with pytest.raises(UserError, match="failed: .*No such file"):
        measure_latencies({"a": tiny()}, {"a": COLOUR}, engine="command:/none/such")
