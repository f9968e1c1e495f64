"""Share of the machine in use. Target: on a GPU 25 % at 300 k parameters, 40 % at 1.2 M.

The limit is images a second that this machine could train if nothing but its memory bandwidth, or
nothing but its matrix rate, held it up: 1 / max(bytes ÷ bandwidth, FLOPs ÷ rate). Both ceilings are
measured: a copy of 1 GiB (256 MiB on a CPU), counting what is read and what is written, and a
product of square matrices in the precision of the training. Both needs are counted from the model:

- FLOPs of one forward and one backward pass, by torch.utils.flop_counter (a multiply-add is two);
- bytes of activations: what each convolution, linear layer and norm gives is written once and read
  once on the way forward, and read once more on the way back, where its gradient is written and
  read once: five times its size, in the precision of the training. All between (activation
  functions, additions) is taken to be fused into these; weights, their gradients and the optimiser
  are left out. Any engine moves more than that, so the limit is high and the share low.

Students are dense residual networks of about 30 k, 100 k, 300 k and 1.2 M parameters on 32x32 noise
in colour, trained as a trial trains them (labels and KL, answers at hand; on a card the steps are
replayed from a CUDA graph), in batches of the recipe's 64 and in large ones.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --device cuda
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import sides
import torch
from common import clock, in_turn, quartiles
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasdistill import training
from nasdistill.common.machine import cores
from nasdistill.data import Dataset, load_data
from nasdistill.losses import Objective
from nasdistill.losses.schedules import constant
from nasdistill.models import Classifier, build
from nasdistill.models.hooks import Outputs
from nasdistill.space import Architecture
from nasdistill.teachers.targets import TargetRequest, TeacherTargets
from nasdistill.training import BatchStream, LRSchedule, Precision, Run

WIDTHS = {
    "30 k": (12, 20, 36),
    "100 k": (20, 40, 64),
    "300 k": (32, 64, 120),
    "1.2 M": (64, 128, 240),
}
TARGETS = {"300 k": 0.25, "1.2 M": 0.40}
TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
PASSES = 5
"""How often an activation, or its gradient, is read or written at the least."""


class AtHand(TeacherTargets):
    """TeacherTargets that lie on the device."""

    def __init__(self, logits_NC: Tensor) -> None:
        self._said_NC = logits_NC

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        """See `TeacherTargets`."""
        return Outputs(self._said_NC[request.batch.ids])


def pictures(device: torch.device, count: int = 12_000) -> Dataset:
    """Noise with labels, as a data set of 32x32 colour images."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.npz"
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(path, images=images, labels=np.arange(count) % 10)
        return load_data(f"npz:{path}", device=device)


def student(data: Dataset, widths: tuple[int, ...]) -> Classifier:
    """A residual network with a basic block in each of three stages."""
    stages = [{"width": width, "depth": 1, "block": {"type": "basic"}} for width in widths]
    values = {"stem": {"type": "conv3", "width": widths[0]}, "stages": stages}
    torch.manual_seed(0)
    net = build(Architecture("resnet", values), data.input, len(data.classes))
    return Classifier(net, data.mean, data.std)


def run_of(data: Dataset, widths: tuple[int, ...], precision: Precision, batch: int) -> Run:
    """A run whose steps are those of a trial."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(data.train), len(data.classes), generator=generator)
    run = Run(
        [student(data, widths)],
        BatchStream(data, batch, 4, 0),
        Objective.classic(constant(0.1), constant(4.0)),
        horizon=1 << 40,
        lr_schedule=LRSchedule(1e-3, 1, None, 1 << 40),
        seed=0,
        precision=precision,
        targets={"teacher": AtHand(logits.half().to(data.train.labels.device))},
    )
    sides.capture(run)
    return run


def rate(run: Run, steps: int) -> float:
    """Images a second over some steps."""
    begin = clock(run.device)
    until = run.examples + steps * run.stream.batch_size
    for _ in training.train(run, until, every=steps):
        pass
    return steps * run.stream.batch_size / (clock(run.device) - begin)


def needs(module: nn.Module, data: Dataset, width_bytes: int) -> dict[str, float]:
    """FLOPs, and bytes of activations, of training on one image."""
    outputs = 0

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal outputs
        outputs += output[0].numel()

    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, kinds)]
    images = torch.zeros(2, data.input.channels, *data.input.size, device=data.train.labels.device)
    with FlopCounterMode(display=False) as counter:
        module(images).sum().backward()
    for hook in hooks:
        hook.remove()
    module.zero_grad()
    return {"flops": counter.get_total_flops() / 2, "bytes": PASSES * outputs * width_bytes}


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written; the best of five."""
    size = (1 << 30) if device.type == "cuda" else (1 << 28)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return max(2 * size / seconds for seconds in timed(lambda: target.copy_(source), device))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a large product of random matrices; the best of five."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return max(2 * side**3 / seconds for seconds in timed(lambda: a @ b, device))


def timed(work: Any, device: torch.device) -> list[float]:
    """Seconds of five repeats, after two that warm up."""
    seconds = []
    for _ in range(7):
        begin = clock(device)
        work()
        seconds.append(clock(device) - begin)
    return seconds[2:]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The ceilings, and each student's rate, needs and share of its limit."""
    device, precision = torch.device(args.device), args.precision
    data = pictures(device)
    ceilings = {"bandwidth": bandwidth(device), "rate": matrix_rate(device, TYPES[precision])}
    runs = {
        f"{name}, {batch}": run_of(data, widths, precision, batch)
        for name, widths in WIDTHS.items()
        for batch in args.batch
    }
    for run in runs.values():
        rate(run, args.steps)
    sides_of = {name: partial(rate, run, args.steps) for name, run in runs.items()}
    rates = in_turn(sides_of, args.repeats)
    students: dict[str, Any] = {}
    for name, run in runs.items():
        need = needs(run.student, data, TYPES[precision].itemsize)
        seconds = {
            "memory": need["bytes"] / ceilings["bandwidth"],
            "arithmetic": need["flops"] / ceilings["rate"],
        }
        limit = 1.0 / max(seconds.values())
        students[name] = {
            "params": sum(p.numel() for p in run.student.parameters()),
            **need,
            "batch": run.stream.batch_size,
            "bound_by": max(seconds, key=lambda key: seconds[key]),
            "limit": limit,
            "images_per_second": quartiles(rates[name]),
            "share": quartiles([value / limit for value in rates[name]]),
        }
    return {"ceilings": ceilings, "students": students}


def describe(figures: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as Markdown."""
    ceilings, rows = figures["ceilings"], []
    for one in figures["students"].values():
        low, middle, high = (100 * share for share in one["share"])
        rows.append(
            [
                f"{one['params']:,}",
                one["batch"],
                f"{one['flops'] / 1e6:,.0f}",
                f"{one['bytes'] / 1e3:,.0f}",
                one["bound_by"],
                f"{one['limit']:,.0f}",
                common.spread(one["images_per_second"], 0),
                f"{middle:.1f} % ({low:.1f}–{high:.1f})",
            ]
        )
    head = [
        "parameters",
        "batch",
        "MFLOP an image",
        "kB an image",
        "bound by",
        "limit, images/s",
        "images/s",
        "share",
    ]
    first = (
        f"{args.precision}, {args.repeats} repeats of {args.steps} "
        f"steps, {common.place(args.device, args.threads)}. Measured ceilings: "
        f"{ceilings['bandwidth'] / 1e9:,.0f} GB/s, {ceilings['rate'] / 1e12:,.2f} TFLOP/s."
    )
    lines = [first, common.markdown(head, rows)]
    if args.device.startswith("cuda"):
        lines += [
            common.verdict(f"At {name}, batches of {batch}", share_of(figures, name, batch), target)
            for name, target in TARGETS.items()
            for batch in args.batch
        ]
    return "\n\n".join(lines)


def share_of(figures: dict[str, Any], name: str, batch: int) -> float:
    """The median share of a student's limit."""
    middle: float = figures["students"][f"{name}, {batch}"]["share"][1]
    return middle


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=tuple(TYPES), default="bf16")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = measure(args)
    results = {"machine": common.machine(args.device), "options": vars(args), **figures}
    common.write(common.name_on("roofline", args.device), results, describe(figures, args))


if __name__ == "__main__":
    main()
