"""Does 8-bit floating point pay for small students? Measured on a card that has it alone.

A vision transformer of 4.8 M parameters is distilled from the shipped teacher in fp32, in bf16, and
in bf16 with its linear layers in FP8 (e4m3, torchao's dynamic scaling by tensor; layers whose sides
are no multiples of 16 stay in bf16, as do convolutions, for which there is no FP8). Same images,
order and weights; timed are steps of training, and accuracy is compared over seeds. Then the
trained student answers in fp32, bf16, fp16 and FP8 (dynamic scaling by row).

    python benchmarks/fp8.py --device cuda                     # pip install torchao
    python benchmarks/fp8.py --emulate --epochs 0.1 --seeds 0  # on a CPU: that it runs, no figures

FP8 needs a card of compute capability 8.9 or more (NVIDIA Ada, Hopper).
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

import common
import torch
from common import Setting, clock, in_turn, quartiles, spread
from sides import pace_for
from torch import Tensor, nn

from nasdistill import training
from nasdistill.models import Classifier
from nasdistill.space import Architecture
from nasdistill.training import Precision, predict
from nasdistill.training.metrics import accuracy

STUDENT = Architecture(
    "vit",
    {
        "tokens": 7,
        "stem": {"type": "patch"},
        "heads": 4,
        "head_width": 64,
        "depth": 6,
        "mlp_ratio": 4,
    },
)
TRAINED: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp8": "bf16"}
ANSWERS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}
LEAST = (8, 9)
"""Compute capability from which on there is FP8."""
MULTIPLE = 16
"""Both sides of a linear layer are multiples of it, or it stays as it is."""


def converted(name: str, layer: nn.Module) -> bool:
    """Whether a layer's products are in FP8."""
    sides = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (1,)
    return all(side % MULTIPLE == 0 for side in sides)


def start(setting: Setting, side: str, emulate: bool) -> Classifier:
    """A fresh student, the same on every side but for its layers."""
    (student,) = setting.setup.students(STUDENT, setting.data, setting.recipe.seed)
    assert isinstance(student, Classifier)
    if side == "fp8":
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

        convert_to_float8_training(
            student.net,
            module_filter_fn=lambda layer, name: converted(name, layer),
            config=Float8LinearConfig(emulate=emulate),
        )
    return student


def train(setting: Setting, side: str, epochs: float, emulate: bool) -> tuple[nn.Module, float]:
    """A student after some epochs, and the seconds of a step after the first few."""
    student, schedule = start(setting, side, emulate), pace_for(setting, epochs)
    setting.setup.prepare(schedule.end, 0)
    run = setting.setup.run(
        [student],
        horizon=schedule.end,
        lr_schedule=schedule,
        seed=setting.recipe.seed,
        precision=TRAINED[side],
    )
    batch = run.stream.batch_size
    warm = min(schedule.end, 10 * batch)
    for _ in training.train(run, warm):
        pass
    begin = clock(run.device)
    for _ in training.train(run, schedule.end):
        pass
    return run.student.eval(), (clock(run.device) - begin) / max(1, (schedule.end - warm) / batch)


class Cast(nn.Module):
    """A classifier that computes in a type of its own.

    Args:
        whole: Of which it is a copy.
        dtype: Of weights and activations.
        quantised: Whether products are in FP8 besides.
    """

    def __init__(self, whole: Classifier, dtype: torch.dtype, quantised: bool) -> None:
        super().__init__()
        self.mean, self.std, self.dtype = whole.mean, whole.std, dtype
        self.net = copy.deepcopy(whole.net).to(dtype)
        if quantised:
            from torchao.quantization import (
                Float8DynamicActivationFloat8WeightConfig,
                PerRow,
                quantize_,
            )

            config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
            quantize_(self.net, config, filter_fn=lambda layer, name: converted(name, layer))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits `[B, N]` of images (uint8, or 0 to 255)."""
        shown = (images_BCHW.float() / 255 - self.mean) / self.std
        logits: Tensor = self.net(shown.to(self.dtype))
        return logits.float()


def answered(setting: Setting, whole: Classifier, args: argparse.Namespace) -> dict[str, Any]:
    """Images a second, and accuracy on the audit half, by the type in which a student answers."""
    data = setting.data
    kinds = [kind for kind in ANSWERS if not (args.emulate and kind == "fp8")]
    modules = {kind: Cast(whole, ANSWERS[kind], kind == "fp8").eval() for kind in kinds}
    [batch] = data.train.batches([(torch.arange(args.batch), None)], data.input.size)

    def rate(module: nn.Module) -> float:
        with torch.inference_mode():
            module(batch.images)
            begin = clock(setting.device)
            for _ in range(args.calls):
                module(batch.images)
        return args.calls * len(batch.images) / (clock(setting.device) - begin)

    rates = in_turn({k: lambda m=m: rate(m) for k, m in modules.items()}, args.repeats)
    return {
        kind: {
            "images_per_second": quartiles(rates[kind]),
            "audit": accuracy(*predict(module, data.audit, data.input.size)),
        }
        for kind, module in modules.items()
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every side with every seed; then the answers of the student that bf16 trained last."""
    trained: dict[str, list[dict[str, float]]] = {side: [] for side in TRAINED}
    for seed in args.seeds:
        setting = common.open_setting(seed, device=args.device)
        for side in TRAINED:
            student, seconds = train(setting, side, args.epochs, args.emulate)
            right = accuracy(*predict(student, setting.data.audit, setting.data.input.size))
            trained[side].append({"seed": seed, "ms": 1000 * seconds, "audit": right})
            print(side, trained[side][-1], flush=True)
            if side == "bf16":
                whole = student
    assert isinstance(whole, Classifier)
    return {"trained": trained, "answers": answered(setting, whole, args)}


def describe(figures: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures as Markdown."""
    rows = [
        [side, spread(quartiles([one["ms"] for one in of]), 1), *[f"{x['audit']:.4f}" for x in of]]
        for side, of in figures["trained"].items()
    ]
    head = ["training", "ms a step", *[f"audit accuracy, seed {seed}" for seed in args.seeds]]
    answers = [
        [kind, spread(of["images_per_second"], 0), f"{of['audit']:.4f}"]
        for kind, of in figures["answers"].items()
    ]
    text = f"{args.epochs:g} epochs, {common.place(args.device, args.threads)}."
    table = common.markdown(["answers", f"images/s, batch {args.batch}", "audit accuracy"], answers)
    return "\n\n".join([text, common.markdown(head, rows), table])


def main() -> None:
    """Measures, and writes the table; without FP8 says so and measures nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--emulate", action="store_true", help="on a CPU, written nowhere")
    args = parser.parse_args()
    if args.emulate:
        args.device, args.batch, args.calls, args.repeats = "cpu", 64, 1, 1
    elif not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= LEAST):
        sys.exit("skipped: FP8 needs a card of compute capability 8.9 or more, and there is none")
    torch.set_num_threads(args.threads)
    figures = measure(args)
    text = describe(figures, args)
    if args.emulate:
        print(text)
        return
    results = {"machine": common.machine(args.device), "options": vars(args), **figures}
    common.write("fp8", results, text)


if __name__ == "__main__":
    main()
