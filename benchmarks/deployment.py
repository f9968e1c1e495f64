"""What does 8 bits cost, and what does it bring?

Finals of a search, quantised by `--format onnx-int8`, held against their fp32 files, against the
same finals quantised by ONNX Runtime's defaults on the same pictures, against NNCF's
post-training quantisation where that is installed (`pip install nncf`), and against fp32 files for
OpenVINO, ExecuTorch and LiteRT where these are. Accuracy on the whole test split; latency in each
file's own runtime with one thread, call by call in turn.

    python benchmarks/deployment.py studies/mobile/finals/1 studies/mobile/finals/2 …

Targets: within 0.5 points of fp32; at most 0.30 of its bytes; a latency no worse than its; 40 times
smaller than the teacher's fp32 ONNX file, with 96 % of its accuracy kept.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import ROOT, machine, markdown, met, place, write

from nasdistill.common.events import silent
from nasdistill.common.runtimes import Answer
from nasdistill.common.types import FormatName
from nasdistill.data import Dataset, load_data
from nasdistill.deployment.calibration import Calibration, as_floats, calibration_of
from nasdistill.deployment.formats import FORMATS, Format
from nasdistill.deployment.int8 import BATCH, reader
from nasdistill.deployment.source import Source
from nasdistill.models import artifact
from nasdistill.models.export import quick_onnx, silence
from nasdistill.models.latency import Latency, time_in_turn, timed
from nasdistill.teachers import load_teacher

SECONDS = 3.0
MOST_LOSS, MOST_BYTES, MOST_LATENCY = 0.5, 0.30, 1.0
LEAST_COMPRESSION, LEAST_KEPT = 40.0, 0.96


def ours(folder: Path, calibration: Calibration, path: Path, name: FormatName) -> None:
    module, input = artifact.load(folder), artifact.input_of(folder)
    source = Source(module, input, folder / "model.onnx", {}, calibration, MOST_LOSS, silent)
    FORMATS[name].write(source, path)


def defaults(folder: Path, calibration: Calibration, path: Path) -> None:
    from onnxruntime.quantization import quantize_static

    with silence():
        quantize_static(str(folder / "model.onnx"), str(path), reader(calibration.pictures))


def nncf(folder: Path, calibration: Calibration, path: Path) -> None:
    import nncf

    pictures = [{"images": as_floats(part[None])} for part in calibration.pictures]
    model = onnx.load(folder / "model.onnx")
    onnx.save(nncf.quantize(model, nncf.Dataset(pictures)), path)


WAYS: dict[str, Callable[[Path, Calibration, Path], None]] = {
    "onnx-int8": partial(ours, name="onnx-int8"),
    "ONNX Runtime's defaults": defaults,
    "NNCF": nncf,
    "openvino": partial(ours, name="openvino"),
    "executorch": partial(ours, name="executorch"),
    "litert": partial(ours, name="litert"),
}
PACKAGES = {"NNCF": "nncf", "openvino": "openvino", "executorch": "executorch"}
PACKAGES["litert"] = "litert_torch"


def format_of(way: str) -> Format:
    """The format that runs what a way makes."""
    return {str(name): format for name, format in FORMATS.items()}.get(way, FORMATS["onnx"])


def right_on_test(answer: Answer, step: int, data: Dataset) -> float:
    ids = torch.arange(len(data.test))
    batches = data.test.batches([(part, None) for part in torch.split(ids, step)], data.input.size)
    answers = [answer(as_floats(batch.images.numpy())).argmax(1) for batch in batches]
    return float((np.concatenate(answers) == data.test.labels.numpy()).mean())


def rows_of(folder: Path, data: Dataset, calibration: Calibration) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        files = {"fp32": folder / "model.onnx"}
        for number, (name, make) in enumerate(WAYS.items()):
            if name in PACKAGES and find_spec(PACKAGES[name]) is None:
                continue
            files[name] = Path(temporary) / f"{number}{Path(format_of(name).file).suffix}"
            make(folder, calibration, files[name])
        answers = {name: format_of(name).open(path, 1) for name, path in files.items()}
        times = {batch: times_of(answers, batch, data) for batch in (1, 64)}
        fp32: dict[str, Any] = {}
        for name, path in files.items():
            step = 1 if format_of(name).one_at_a_time else BATCH
            share, size = right_on_test(answers[name], step, data), _bytes(path)
            fp32 = fp32 or {"accuracy": share, "bytes": size}
            row = {
                "final": folder.name,
                "file": name,
                "accuracy": share,
                "loss_points": 100 * (fp32["accuracy"] - share),
                "bytes": size,
                "bytes_ratio": size / fp32["bytes"],
            }
            for batch, measured in times.items():
                if name in measured:
                    own, beside = measured[name], measured["fp32"]
                    row |= {
                        f"ms_{batch}": own.median_ms,
                        f"ratio_{batch}": own.median_ms / beside.median_ms,
                        f"least_ratio_{batch}": own.least_ms / beside.least_ms,
                    }
            yield row


def times_of(answers: dict[str, Answer], batch: int, data: Dataset) -> dict[str, Latency]:
    """Latencies of those files that take such a batch, call by call in turn."""
    shape = (batch, data.input.channels, *data.input.size)
    pictures = np.random.default_rng(0).random(shape, dtype=np.float32)
    calls = {
        name: partial(answer, pictures)
        for name, answer in answers.items()
        if batch == 1 or not format_of(name).one_at_a_time
    }
    measured = time_in_turn(calls, SECONDS)  # type: ignore[arg-type]
    return {name: timed(name, batch, 1, times) for name, times in measured.items()}


def teacher_of(spec: str, data: Dataset) -> dict[str, float]:
    """A teacher's accuracy on test images, and the bytes of its fp32 ONNX file."""
    teacher = load_teacher(spec, data, device=torch.device("cpu"))
    ids = torch.arange(len(data.test))
    batches = data.test.batches(
        [(part, None) for part in torch.split(ids, BATCH)], teacher.input.size
    )
    with torch.inference_mode():
        answers = [teacher.logits(batch.images).argmax(1) for batch in batches]
    right = (torch.cat(answers) == data.test.labels).float().mean()
    content = quick_onnx(teacher.module, teacher.input)
    return {"accuracy": float(right), "bytes": len(content)}


def _bytes(path: Path) -> int:
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    return sum(each.stat().st_size for each in (path, *beside))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("finals", nargs="+", type=Path)
    parser.add_argument("--data", default="fashion-mnist-mini")
    parser.add_argument("--teacher", default="shipped")
    parser.add_argument("--name", default="deployment", help="of the JSON and of its table's place")
    arguments = parser.parse_args()
    data = load_data(arguments.data, device=torch.device("cpu"), seed=0)
    calibration = calibration_of(data, "accuracy", synthetic=False)
    rows = [row for folder in arguments.finals for row in rows_of(folder, data, calibration)]
    own = [row for row in rows if row["file"] == "onnx-int8"]
    teacher = teacher_of(arguments.teacher, data)
    for row in own:
        row["compression"] = teacher["bytes"] / row["bytes"]
        row["kept"] = row["accuracy"] / teacher["accuracy"]
    reached = [r for r in own if r["compression"] >= LEAST_COMPRESSION and r["kept"] >= LEAST_KEPT]
    targets = {
        f"at most {MOST_LOSS} points lost": all(row["loss_points"] <= MOST_LOSS for row in own),
        f"at most {MOST_BYTES:.2f} of the bytes": all(r["bytes_ratio"] <= MOST_BYTES for r in own),
        "batch 1 no slower": all(row["ratio_1"] <= MOST_LATENCY for row in own),
        "batch 64 no slower": all(row["ratio_64"] <= MOST_LATENCY for row in own),
    }
    nncf_is_there = find_spec("nncf") is not None
    results = {"machine": machine(), "nncf": nncf_is_there, "targets": targets, "teacher": teacher}
    results["rows"] = rows
    outcome = "; ".join(f"{target}: {met(is_met)}" for target, is_met in targets.items())
    compared = ", ".join(f"{r['final']}: {r['compression']:.0f}×, {r['kept']:.1%}" for r in own)
    against = (
        f"The teacher's fp32 file has {teacher['bytes']:,} bytes and is right on "
        f"{teacher['accuracy']:.2%}. Times smaller than that, and share of its accuracy kept, by "
        f"int8 final: {compared}; {LEAST_COMPRESSION:.0f}× at {LEAST_KEPT:.0%}: "
        f"{met(bool(reached))}, by {len(reached)} of {len(own)}."
    )
    beside = " NNCF was not installed, and is left out."
    if nncf_is_there:
        beside = f" NNCF {version('nncf')}, its default preset."
    text = f"Measured {place('cpu', 1)}.\n\n{table(rows)}\n\nFor each final, {outcome}.{beside}"
    text = f"{text}\n\n{against}"
    write(arguments.name, results, text, ROOT / "docs" / "deploy.md")


def table(rows: list[dict[str, Any]]) -> str:
    titles = ("final", "file", "test accuracy", "bytes", "of fp32", "batch 1", "batch 64")
    cells = [
        (
            row["final"],
            row["file"],
            f"{100 * row['accuracy']:.2f} %",
            f"{row['bytes']:,}",
            f"{row['bytes_ratio']:.3f}",
            f"{row['ms_1']:.3f} ms, {row['ratio_1']:.2f}×",
            f"{row['ms_64']:.2f} ms, {row['ratio_64']:.2f}×" if "ms_64" in row else "–",
        )
        for row in rows
    ]
    return markdown(titles, cells)


if __name__ == "__main__":
    main()
