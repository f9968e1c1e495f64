"""Counts by hand, and engines."""

from __future__ import annotations

import math
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.models.counts import Counts, count_architecture, count_module
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.models.export import quick_onnx
from nasdistill.models.latency import Latency, measure_latencies
from nasdistill.models.vit import Attention
from nasdistill.space import Architecture, SearchSpace
from nasdistill.trials import context

COLOUR = Input(3, 16, 16)


class Tokens(nn.Module):
    """Attends over the pixels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.attention(x_BCHW.flatten(2).transpose(1, 2))
        return mixed


@pytest.mark.parametrize(
    ("module", "params", "macs"),
    [
        (nn.Conv2d(3, 8, 3, 2, 1), 8 * 3 * 9 + 8, 8 * 8 * 8 * 3 * 9),
        (DepthwiseConv2d(3, 5, 1), 3 * 25, 3 * 16 * 16 * 25),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), 7690, 7680),
        (nn.BatchNorm2d(3), 6, 0),
        (nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), 0, 0),
    ],
)
def test_counts_by_hand(module: nn.Module, params: int, macs: int) -> None:
    found = count_module(module, COLOUR)
    assert (found.params, found.macs) == (params, macs)
    stored = sum(t.numel() for t in module.state_dict().values())
    assert found.bytes == 4 * stored
    assert all(not p.is_meta for p in module.parameters()) and module.training


def test_attention_by_hand() -> None:
    tokens, width = 16 * 16, 12
    found = count_module(Tokens(width, 3), Input(width, 16, 16))
    assert found.params == 4 * (width * width + width)
    assert found.macs == 4 * tokens * width * width + 2 * tokens * tokens * width


def test_architecture_by_hand() -> None:
    layers = {"type": "two", "widths": [128, 64]}
    values = {"activation": "relu", "dropout": 0.1, "layers": layers}
    found = count_architecture(Architecture("mlp", values), Input(1, 28, 28), 10)
    macs = 784 * 128 + 128 * 64 + 64 * 10
    assert found == Counts(macs + 128 + 64 + 10, macs, 4 * (macs + 128 + 64 + 10), 3)


@pytest.mark.parametrize("name", ["mlp", "mobile", "resnet", "vit"])
def test_counts_agree_with_the_built_module(name: str) -> None:
    architecture = SearchSpace.load(name).random(random.Random(0))
    module = build(architecture, COLOUR, 5)
    assert count_architecture(architecture, COLOUR, 5) == count_module(module, COLOUR)


# -- engines ------------------------------------------------------------------------------------


def tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_engines_measure_side_by_side(engine: str) -> None:
    models = {"one": tiny(), "two": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())}
    found = measure_latencies(
        models, {"one": COLOUR, "two": COLOUR}, engine=engine, batch=2, seconds=0.01
    )
    assert list(found) == ["one", "two"]
    for latency in found.values():
        assert (latency.engine, latency.batch, latency.threads) == (engine, 2, 1)
        assert 0 < latency.q1_ms <= latency.median_ms <= latency.q3_ms < math.inf
        assert latency.repeats >= 20
    assert found["one"].repeats == found["two"].repeats


def test_onnx_file_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(quick_onnx(tiny(), COLOUR))
    found = measure_latencies({"file": path}, {"file": COLOUR}, engine="onnxruntime", seconds=0.01)
    assert found["file"].repeats >= 20


def test_unknown_engine() -> None:
    with pytest.raises(UserError, match="'onnx': allowed are onnxruntime, torch, cuda, command:"):
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
    found = measure_latencies({"a": tiny()}, {"a": COLOUR}, engine=engine)["a"]
    assert found == Latency(engine, 1, 0, 3.0, 1.5, 4.5, 5, 1.0)
    again = measure_latencies({"b": copy}, {"b": COLOUR}, engine="onnxruntime", seconds=0.01)
    assert again["b"].repeats >= 20


def test_command_with_one_number(tmp_path: Path) -> None:
    found = measure_latencies({"a": tiny()}, {"a": COLOUR}, engine=command(tmp_path, "print(2.5)"))[
        "a"
    ]
    assert (found.q1_ms, found.median_ms, found.q3_ms, found.repeats) == (2.5, 2.5, 2.5, 1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.exit('no such board')", "failed: no such board"),
        ("print('fast')", "failed: could not convert"),
        ("print()", "printed no milliseconds"),
        ("print(-1.0)", "printed no milliseconds"),
        ("print('nan')", "printed no milliseconds"),
    ],
)
def test_commands_that_fail(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        measure_latencies({"a": tiny()}, {"a": COLOUR}, engine=command(tmp_path, body))


def test_command_that_is_not_there() -> None:
    with pytest.raises(UserError, match="failed: .*No such file"):
        measure_latencies({"a": tiny()}, {"a": COLOUR}, engine="command:/none/such")


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_a_slower_minute_does_not_make_a_student_look_slow(
    slower: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher took 4 ms when the study began; its shortest call now takes 3 ms, or 9."""

    def measured(models: Any, inputs: Any, **options: Any) -> dict[str, Latency]:
        times = {"student": (1.5 * slower, 7.0), "teacher": (3.0 * slower, 11.0)}
        return {
            name: Latency("torch", 1, 1, times[name][1], 1.0, 9.0, 20, times[name][0])
            for name in models
        }

    monkeypatch.setattr(context.profile, "measure", measured)
    job: Any = SimpleNamespace(
        recipe=SimpleNamespace(latency_engine="torch"),
        dataset=SimpleNamespace(input=None),
        teacher=SimpleNamespace(module=nn.Identity(), input=None),
        threads=1,
        teacher_latency=4.0,
        lock=tmp_path / "latency.lock",
    )
    job.settled = partial(context.StudyContext.settled, job)
    assert context.StudyContext.measure_latency(job, nn.Identity()) == 2.0
    job.teacher_latency = None
    assert context.StudyContext.measure_latency(job, nn.Identity()) == 7.0, "its own median"
