"""Static quantisation to 8 bits by ONNX Runtime: ranges from pictures, choices on the score half.

Activations are unsigned, weights signed and per channel, in QDQ form: the combination that ONNX
Runtime's kernels for x86 are made for. Signed activations took 1.7 to 5.2 times as long as fp32
there (docs/deploy.md).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasdistill.common import formats
from nasdistill.common.errors import UserError, disk_problem
from nasdistill.common.events import Event, with_signs_of_life
from nasdistill.deployment.calibration import Calibration, as_floats
from nasdistill.deployment.compact import compact, drop_default_attributes, drop_unused
from nasdistill.deployment.formats import Remarks
from nasdistill.deployment.metadata import with_metadata
from nasdistill.deployment.source import Source
from nasdistill.models.export import ExportError, export_onnx, silence
from nasdistill.training.metrics import MEASURES

METHODS = ("MinMax", "Entropy", "Percentile")
"""Ways to take a range from the values of a tensor; see ONNX Runtime's `CalibrationMethod`."""
LEAST_OPSET = 13
"""The first in which QuantizeLinear takes a scale for each channel."""
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LAYER_SECONDS = 90.0
"""Time after which no further layer is tried in fp32, which is told."""
BATCH = 64


class Tried(NamedTuple):
    """A quantised file that was tried on the score half.

    Attributes:
        content: The file.
        logits: Its logits there, `[M, K]`.
        score: Its score, in [0, 1].
        difference: Mean absolute difference of its logits from those of fp32.
    """

    content: bytes
    logits: Tensor
    score: float
    difference: float


def write_int8(source: Source, path: Path) -> Remarks:
    """Writes a final quantised to 8 bits.

    All three calibration methods are tried; the one that scores best on the score half is taken, of
    equals the one whose logits are closest to those of fp32. Then, if it scores lower than fp32
    there, each layer with weights is left in fp32 once, and those stay so that cost more than they
    save: see `_is_sensitive`. If more than `max_loss` points are lost even so, the final is
    distilled on with fake quantisation and quantised anew; what scores better is kept.

    Args:
        source: The final, with pictures.
        path: The file.

    Returns:
        `method`, `scores` by method, `score_fp32`, `score`, `fp32_layers`, `calibrated_on`, `text`,
        and `quantisation_aware` (`score_before`, `score`, `kept`) where that was tried.

    Raises:
        UserError: If the ONNX file's opset is too old.
    """
    assert source.calibration is not None
    best, remarks = _quantise(source, source.onnx.read_bytes(), source.calibration)
    fp32_score = remarks["score_fp32"]
    points = 100 * (fp32_score - best.score)
    if points > source.max_loss:
        best, remarks = _after_distillation(source, best, remarks, points)
    path.write_bytes(with_metadata(best.content, source.metadata))
    return {**remarks, "score_fp32": fp32_score}


def _quantise(source: Source, onnx: bytes, calibration: Calibration) -> tuple[Tried, Remarks]:
    """The best int8 file of an fp32 one, and what was decided for it."""
    with tempfile.TemporaryDirectory() as folder:
        quantiser = _Quantiser(source, onnx, calibration, Path(folder))
        results = {method: quantiser.tried(method) for method in METHODS}
        method = max(METHODS, key=lambda name: (results[name].score, -results[name].difference))
        best, fp32_layers, exam = _with_fp32_layers(quantiser, method, results[method])
    scores = {name: each.score for name, each in results.items()}
    scored = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    return best, {
        "method": method,
        "scores": scores,
        "score_fp32": quantiser.fp32_score,
        "score": best.score,
        "fp32_layers": fp32_layers,
        "calibrated_on": calibration.about,
        "text": [
            f"calibrated on {calibration.about}",
            f"{method} of {scored} (score half; fp32 {quantiser.fp32_score:.4f})",
            exam,
        ],
    }


def _after_distillation(
    source: Source, best: Tried, remarks: Remarks, points: float
) -> tuple[Tried, Remarks]:
    """The better of a file and one that was quantised after distillation with fake quantisation."""
    lost = f"{points:.2f} points lost on the score half"
    if source.distil_quantised is None:
        hint = f"{lost}: a search with --formats onnx-int8 distils on with fake quantisation"
        return best, {**remarks, "text": [*remarks["text"], hint]}
    source.emit(Event("note", f"int8: {lost}; distilling on with fake quantisation", stage="files"))
    student = source.distil_quantised()
    if student is None:
        return best, remarks
    assert source.calibration is not None
    try:
        with tempfile.TemporaryDirectory() as folder:
            onnx = Path(folder) / "distilled.onnx"
            export_onnx(student, source.input, onnx)
            again, remarks_again = _quantise(source, onnx.read_bytes(), source.calibration)
    except ExportError as error:
        hint = f"distilled on with fake quantisation, but not written: {error}"
        return best, {**remarks, "text": [*remarks["text"], hint]}
    kept = again.score > best.score
    outcome = {"score_before": best.score, "score": again.score, "kept": kept}
    text = (
        f"distilled on with fake quantisation: {again.score:.4f} instead of {best.score:.4f}, "
        + ("kept" if kept else "not kept")
    )
    best, remarks = (again, remarks_again) if kept else (best, remarks)
    return best, {**remarks, "quantisation_aware": outcome, "text": [*remarks["text"], text]}


def quick_int8(onnx: bytes, pictures: NDArray[np.uint8]) -> bytes:
    """Quantises for a measurement of size and speed: one calibration, all layers, no choices.

    Args:
        onnx: The fp32 file.
        pictures: uint8 `[N, C, H, W]`, which give the ranges.

    Returns:
        The int8 file.

    Raises:
        ExportError: If ONNX Runtime cannot quantise it, or not run what it wrote.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            _prepare(onnx, Path("model.onnx"), prepared)
            content = _quantised(prepared, Path(folder), "MinMax", (), pictures)
            with silence():
                session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
                session.run(None, {session.get_inputs()[0].name: as_floats(pictures[:1])})
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime raises nearly anything.
            if disk_problem(error) is not None:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ExportError(f"as int8 it cannot be had ({reason})") from error
    return content


def _with_fp32_layers(
    quantiser: _Quantiser, method: str, whole: Tried
) -> tuple[Tried, list[str], str]:
    """The file with its sensitive layers in fp32, their names, and what was found in words."""
    if whole.score >= quantiser.fp32_score:
        return whole, [], "no layer costs anything on the score half"
    candidates, count, in_time = [], 0, True
    for layer, without in quantiser.each_left_out(method):
        count += 1
        if _is_sensitive(quantiser, whole, without):
            candidates.append((without.score, layer))
    in_time = count == len(quantiser.layers)
    best, kept = whole, list[str]()
    for _, layer in sorted(candidates, reverse=True):
        without = quantiser.tried(method, [*kept, layer])
        if without.score > best.score:
            best, kept = without, [*kept, layer]
    left = f"left in fp32: {', '.join(kept)}" if kept else "none costs more than it saves"
    time_up = "" if in_time else f", the time of {LAYER_SECONDS:.0f} s being up"
    count_text = formats.counted(count, "layer")
    return best, kept, f"{count_text} of {len(quantiser.layers)} tried in fp32{time_up}: {left}"


def _is_sensitive(quantiser: _Quantiser, whole: Tried, without: Tried) -> bool:
    """Whether a layer costs more than it saves.

    What it costs: the points that the score half gains when it stays in fp32. What it saves: its
    part of the bytes that quantising saves, all of which are worth `max_loss` points. And the gain
    must be no accident: pictures that come out right beyond those that come out wrong, more than
    twice the deviation of as many tosses of a coin (McNemar, 1947).
    """
    labels = quantiser.calibration.score_labels
    before, after = (t.logits.argmax(1) == labels for t in (whole, without))
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    saved = len(without.content) - len(whole.content)
    all_saved = max(1, quantiser.fp32_bytes - len(whole.content))
    worth = quantiser.max_loss * saved / all_saved
    points = 100 * (without.score - whole.score)
    return points > worth and gained - lost > 2 * (gained + lost) ** 0.5


class _Quantiser:
    """Quantises one final in several ways; what ONNX Runtime has to compute once is kept."""

    def __init__(self, source: Source, onnx: bytes, calibration: Calibration, folder: Path) -> None:
        self.calibration, self.max_loss, self.emit = calibration, source.max_loss, source.emit
        self._folder, self._prepared = folder, folder / "prepared.onnx"
        self.fp32_bytes = len(onnx)
        self._fp32 = onnx
        _prepare(onnx, source.onnx, self._prepared)

    @cached_property
    def _fp32_logits(self) -> Tensor:
        return self._logits(self._fp32)

    @cached_property
    def fp32_score(self) -> float:
        """What the fp32 file scores."""
        return self._score(self._fp32_logits)

    @cached_property
    def layers(self) -> list[str]:
        """Names of the nodes with weights."""
        import onnx

        graph = onnx.load(self._prepared).graph
        stored = {value.name for value in graph.initializer}
        return [
            node.name
            for node in graph.node
            if node.op_type in WITH_WEIGHTS and stored & set(node.input[1:2])
        ]

    def each_left_out(self, method: str) -> Iterator[tuple[str, Tried]]:
        """Each layer, and the file in which it alone is in fp32, for `LAYER_SECONDS`."""
        until, pictures = time.monotonic() + LAYER_SECONDS, len(self.calibration.score_labels)
        total = pictures * len(self.layers)
        text = "int8: leaving out each layer in turn"
        for layer in with_signs_of_life(self.layers, text, "files", total, self.emit, pictures):
            if time.monotonic() > until:
                return
            yield layer, self.tried(method, [layer])

    def tried(self, method: str, fp32_layers: Sequence[str] = ()) -> Tried:
        """The file quantised in one way, and what it does on the score half."""
        pictures = self.calibration.pictures
        content = _quantised(self._prepared, self._folder, method, fp32_layers, pictures)
        logits = self._logits(content)
        difference = float((logits - self._fp32_logits).abs().mean())
        return Tried(content, logits, self._score(logits), difference)

    def _logits(self, content: bytes) -> Tensor:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name, pictures = session.get_inputs()[0].name, self.calibration.score_pictures
        batches = (pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH))
        answers = [session.run(None, {name: as_floats(batch)})[0] for batch in batches]
        return torch.from_numpy(np.concatenate(answers))

    def _score(self, logits: Tensor) -> float:
        measure = MEASURES[self.calibration.score]
        return measure(logits, self.calibration.score_labels).share


def _quantised(
    prepared: Path,
    folder: Path,
    method: str,
    fp32_layers: Sequence[str],
    pictures: NDArray[np.uint8],
) -> bytes:
    """Quantises a file that `_prepare` wrote; ranges are kept in the folder, by method."""
    import onnx
    from onnxruntime import quantization

    path = folder / "quantised.onnx"
    ranges = folder / f"{method}.json"  # written by the first call, read by the others
    with silence():
        quantization.quantize_static(
            str(prepared),
            str(path),
            None if ranges.exists() else reader(pictures),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(fp32_layers),
            calibrate_method=quantization.CalibrationMethod[method],
            # ONNX Runtime quantises biases as it loads the file; a scale for each costs bytes.
            extra_options={"QuantizeBias": False},
            calibration_cache_path=ranges,
        )
        model = onnx.load(path)
    drop_default_attributes(model.graph)
    return compact(model)


def _prepare(content: bytes, file: Path, path: Path) -> None:
    """Writes the fp32 model with the shapes of all tensors, which quantisation asks for.

    Raises:
        UserError: If its opset is too old.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load_from_string(content)
    opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset < LEAST_OPSET:
        raise UserError(
            f"{file}: opset {opset}; weights quantised per channel need {LEAST_OPSET} or later. "
            "Export the final anew with a current torch, or convert the file with "
            "onnx.version_converter"
        )
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    drop_unused(model.graph)
    with silence():
        # Its optimisation takes HardSwish apart, which then is quantised piece by piece.
        quant_pre_process(model, str(path), skip_optimization=True, skip_symbolic_shape=True)


def reader(pictures: NDArray[np.uint8]) -> Any:
    """What ONNX Runtime asks for pictures to calibrate by, uint8 `[N, C, H, W]`."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._starts = iter(range(0, len(pictures), BATCH))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            start = next(self._starts, None)
            if start is None:
                return None
            return {"images": as_floats(pictures[start : start + BATCH])}

    return Reader()
