"""What does 8 bits cost, and what does it bring?

The int8 files that finals of a search ship, held against their fp32 files, against the same finals
quantised by ONNX Runtime's defaults on the same pictures, against NNCF's post-training quantisation
where that is installed (`pip install nncf`), and against fp32 files for OpenVINO, ExecuTorch and
LiteRT where these are. A file that a final lacks is made. Accuracy on the whole test split; latency
in each file's own runtime with one thread, call by call in turn; and why it is what it is: the
milliseconds that ONNX Runtime gives each kind of operator.

    nasdistill search --space mobile --study mobile --formats onnx-int8
    python benchmarks/deployment.py studies/mobile/finals/*

Targets, for each final: within 0.5 points of fp32; at most 0.30 of its bytes; a latency no worse
than its; 40 times smaller than the teacher's fp32 ONNX file, with 96 % of its accuracy kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from common import ROOT, machine, markdown, met, place, write
from numpy.typing import NDArray

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
PROFILED_CALLS = 20
SHOWN_OPERATORS = 4
MOST_LOSS, MOST_BYTES, MOST_LATENCY = 0.5, 0.30, 1.0
LEAST_COMPRESSION, LEAST_KEPT = 40.0, 0.96
TARGETS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "at most 0.5 points lost": lambda row: row["loss_points"] <= MOST_LOSS + 1e-9,
    "at most 0.30 of the bytes": lambda row: row["bytes_ratio"] <= MOST_BYTES,
    "batch 1 no slower": lambda row: row["ratio_1"] <= MOST_LATENCY,
    "batch 64 no slower": lambda row: row["ratio_64"] <= MOST_LATENCY,
    "40 times smaller than the teacher's file with 96 % of its accuracy": lambda row: (
        row["compression"] >= LEAST_COMPRESSION and row["kept"] >= LEAST_KEPT
    ),
}


def ours(folder: Path, calibration: Calibration, path: Path, name: FormatName) -> None:
    """The file that ships with the final; made, where it has none."""
    shipped = folder / FORMATS[name].file
    if shipped.is_file():
        for part in parts_of(shipped):
            shutil.copyfile(part, path.with_suffix(part.suffix))
        return
    module, input = artifact.load(folder), artifact.input_of(folder)
    fp32 = folder / "model.onnx"
    says = {prop.key: prop.value for prop in onnx.load(fp32).metadata_props}
    source = Source(module, input, fp32, says, calibration, MOST_LOSS, silent)
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
    """A row for each file of a final."""
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
            share = right_on_test(answers[name], step, data)
            size = sum(part.stat().st_size for part in parts_of(path))
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
            if name in ("fp32", "onnx-int8"):
                row["operators"] = {n: operators(path, pictures_of(n, data)) for n in times}
            yield row


def times_of(answers: dict[str, Answer], batch: int, data: Dataset) -> dict[str, Latency]:
    """Latencies of those files that take such a batch, call by call in turn."""
    pictures = pictures_of(batch, data)
    calls = {
        name: partial(answer, pictures)
        for name, answer in answers.items()
        if batch == 1 or not format_of(name).one_at_a_time
    }
    measured = time_in_turn(calls, SECONDS)  # type: ignore[arg-type]
    return {name: timed(name, batch, 1, times) for name, times in measured.items()}


def pictures_of(batch: int, data: Dataset) -> NDArray[np.float32]:
    shape = (batch, data.input.channels, *data.input.size)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def operators(path: Path, pictures: NDArray[np.float32]) -> dict[str, float]:
    """Milliseconds of a call by kind of operator, as ONNX Runtime profiles it with one thread.

    Sums of the medians of nodes: what interrupts a call does not count.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(PROFILED_CALLS):
            session.run(None, {"images": pictures})
        events = json.loads(Path(session.end_profiling()).read_text())
    by_node: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            node = event["args"]["op_name"], event["name"]
            by_node.setdefault(node, []).append(event["dur"])
    by_kind: dict[str, float] = {}
    for (kind, _), microseconds in by_node.items():
        by_kind[kind] = by_kind.get(kind, 0.0) + statistics.median(microseconds) / 1000
    return dict(sorted(by_kind.items(), key=lambda item: -item[1]))


def has_vnni() -> bool:
    """Whether the processor multiplies and adds 8-bit values in one instruction."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return bool({"avx512_vnni", "avx_vnni"} & set(flags))


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


def parts_of(path: Path) -> list[Path]:
    """A file, and the one beside it that holds its weights."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("finals", nargs="+", type=Path)
    parser.add_argument("--data", default="fashion-mnist-mini")
    parser.add_argument("--teacher", default="shipped")
    parser.add_argument("--name", default="deployment", help="of the JSON and of its table's place")
    arguments = parser.parse_args()
    data = load_data(arguments.data, device=torch.device("cpu"), seed=0)
    calibration = calibration_of(data, "accuracy", synthetic=False)
    rows = [row for folder in arguments.finals for row in rows_of(folder, data, calibration)]
    teacher = teacher_of(arguments.teacher, data)
    own = [row for row in rows if row["file"] == "onnx-int8"]
    for row in own:
        row["compression"] = teacher["bytes"] / row["bytes"]
        row["kept"] = row["accuracy"] / teacher["accuracy"]
    nncf_version = version("nncf") if find_spec("nncf") else None
    results = {"machine": machine(), "vnni": has_vnni(), "nncf": nncf_version}
    results |= {"teacher": teacher, "targets": finals_that_meet(own), "rows": rows}
    parts = [
        f"Measured {place('cpu', 1)}.",
        table(rows),
        verdicts(own, nncf_version),
        against_teacher(own, teacher),
        reasons(rows, has_vnni()),
    ]
    write(arguments.name, results, "\n\n".join(parts), ROOT / "docs" / "deploy.md")


def finals_that_meet(own: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The finals that meet each target, of the rows of int8 files."""
    return {
        target: [row["final"] for row in own if is_met(row)] for target, is_met in TARGETS.items()
    }


def verdicts(own: list[dict[str, Any]], nncf_version: str | None) -> str:
    """What became of each target, and what was left out."""
    outcome = "; ".join(
        f"{target}: {met(len(finals) == len(own))}, by {len(finals)} of {len(own)}"
        for target, finals in finals_that_meet(own).items()
    )
    beside = "NNCF was not installed, and is left out."
    if nncf_version is not None:
        beside = f"NNCF {nncf_version}, its default preset."
    return f"Targets of the int8 files: {outcome}. {beside}"


def against_teacher(own: list[dict[str, Any]], teacher: dict[str, float]) -> str:
    compared = ", ".join(f"{r['final']}: {r['compression']:.0f}×, {r['kept']:.1%}" for r in own)
    return (
        f"The teacher's fp32 file has {teacher['bytes']:,.0f} bytes and is right on "
        f"{teacher['accuracy']:.2%}. Times smaller than that, and share of its accuracy kept, by "
        f"int8 final: {compared}."
    )


def reasons(rows: list[dict[str, Any]], vnni: bool) -> str:
    """Where the time of fp32 and int8 files goes, by kind of operator."""
    instructions = (
        "This processor has VNNI, which multiplies and adds values of 8 bits in one instruction"
        if vnni
        else "This processor has no VNNI: values of 8 bits are multiplied and added in three "
        "instructions, where one with VNNI takes one, and so computes at most three times as fast"
    )
    cells = [
        (row["final"], row["file"], batch, operators_text(by_name))
        for row in rows
        for batch, by_name in row.get("operators", {}).items()
    ]
    titles = ("final", "file", "batch", "ms of a call, by kind of operator")
    return f"{instructions}. Where the time goes:\n\n{markdown(titles, cells)}"


def operators_text(by_name: dict[str, float]) -> str:
    """The kinds of operator that take the longest, and what all others take together."""
    longest = list(by_name.items())[:SHOWN_OPERATORS]
    rest = sum(by_name.values()) - sum(ms for _, ms in longest)
    return ", ".join(f"{name} {ms:.3f}" for name, ms in [*longest, ("others", rest)])


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
