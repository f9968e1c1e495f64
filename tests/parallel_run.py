"""A run with batch norms, trained by one process or several. Started by test_data_parallel.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from nasdistill.data import Dataset, load_data
from nasdistill.losses import Objective
from nasdistill.losses.schedules import constant
from nasdistill.models import Classifier
from nasdistill.teachers.targets import EMATargets
from nasdistill.training import BatchStream, LRSchedule, Run, predict, seed_weights, train
from nasdistill.training.data_parallel import DataParallel

CPU = torch.device("cpu")
STEPS = 6


def make(data: Dataset, batch: int, micro_batch: int | None = None) -> Run:
    """A student with three kinds of batch norm, taught by labels and by its own average."""
    seed_weights(0, "student")
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, bias=False),
        BatchNormAct2d(6, act_layer=nn.ReLU),
        nn.Conv2d(6, 8, 3, 2, bias=False),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 12, bias=False),
        nn.BatchNorm1d(12, affine=False),
        nn.Linear(12, 3),
    )
    return Run(
        [Classifier(net, data.mean, data.std)],
        BatchStream(data, batch, 2, 7),
        Objective.classic(constant(0.5), constant(2.0)),
        horizon=2000,
        lr_schedule=LRSchedule(0.01, 100, None, 2000),
        seed=3,
        targets={"teacher": EMATargets(0.9)},
        micro_batch=micro_batch,
    )


def trained(run: Run) -> dict[str, Tensor]:
    """Loss, weights and logits after some steps."""
    [progress] = train(run, STEPS * run.stream.batch_size, every=STEPS)
    state = {
        f"{name}.{key}": values
        for name, module in run._modules().items()
        for key, values in module.state_dict().items()
    }
    state = {key: values.cpu().clone() for key, values in state.items()}
    logits = predict(run.student, run.stream.dataset.test, run.size).logits
    return {**state, "loss": torch.tensor(progress.loss), "logits": logits}


def main(
    blobs: str, device: str, rank: int, processes: int, batch: int, micro_batch: int, out: Path
) -> None:
    """Trains as one of several processes; `micro_batch` is 0 for whole batches."""
    torch.set_num_threads(1)
    run = make(load_data(f"npz:{blobs}", device=torch.device(device)), batch, micro_batch or None)
    if rank:  # what it begins with must not count
        run.student.apply(lambda m: nn.init.zeros_(m.weight) if isinstance(m, nn.Linear) else None)
    run.divide_over(DataParallel.join(rank, processes, out / "rendezvous", run.device))
    torch.save(trained(run), out / f"{rank}.pt")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[3:7]]
    main(sys.argv[1], sys.argv[2], *numbers, Path(sys.argv[7]))
