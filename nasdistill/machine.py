"""The machine: device, cores, threads, and what the report says of them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from nasdistill.errors import UserError

PACKAGES = ("nasdistill", "torch", "torchvision", "optuna", "plotly", "onnx", "onnxruntime")


def pick_device(name: str) -> torch.device:
    """Resolves `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        UserError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no usable CUDA device; use cpu or auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r}: allowed are auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} of them")
    return device


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(workers: int) -> None:
    """Gives each local worker its share of the cores."""
    torch.set_num_threads(max(1, cores() // workers))


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the report says of the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "processor": model, "cores": cores(), "memory_gib": round(memory, 1),
        "accelerator": accelerator, "system": platform.platform(terse=True),
    }  # fmt: skip


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
