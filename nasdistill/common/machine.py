"""The machine: device, cores, threads, memory, and their description for the report."""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nasdistill.common.errors import UserError

PACKAGES = (
    "nasdistill",
    "torch",
    "torchvision",
    "pillow",
    "optuna",
    "plotly",
    "onnx",
    "onnxruntime",
)


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
    """Processor cores that this process may use: by its affinity, and by its container's quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    present = os.cpu_count() or 1 if allowed is None else len(allowed)
    return max(1, int(min(present, cpu_quota())))


CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Mount point of Linux control groups (v2), and the file that names this process's group."""


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """Cores' worth of time that the control groups above this process grant it.

    Args:
        root: Mount point of control groups.
        own: The file that names a process's group.
    """
    quota = math.inf
    for folder in _cgroups(root, own):
        if (folder / "cpu.max").is_file():
            granted, period = (folder / "cpu.max").read_text().split()
            quota = quota if granted == "max" else min(quota, int(granted) / int(period))
    return quota


def memory_headroom(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """Bytes that the control groups above this process still let it take.

    Args:
        root: Mount point of control groups.
        own: The file that names a process's group.
    """
    headroom = math.inf
    for folder in _cgroups(root, own):
        limit = folder / "memory.max"
        if not limit.is_file() or limit.read_text().strip() == "max":
            continue
        usage = int((folder / "memory.current").read_text())
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        stat = {name: int(value) for name, value in lines}
        reclaimable = stat.get("inactive_file", 0)  # The kernel gives these up first.
        headroom = min(headroom, int(limit.read_text()) - usage + reclaimable)
    return max(0.0, headroom)


def _cgroups(root: Path, own: Path) -> Iterator[Path]:
    """The control group of a process, and those above it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    name = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = root / name.strip("/")
    for folder in (group, *group.parents):
        yield folder
        if folder == root:
            return


def free_bytes() -> int:
    """Memory that can still be taken without swapping, and within the container's limit."""
    return int(min(_available(), memory_headroom()))


def _available() -> int:
    info = Path("/proc/meminfo")
    if not info.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


MOST_WORKERS, WORKER_BYTES = 8, 2 * 2**30
"""Unless more are asked for: the more trials are under way at once, the less is known when one is
stopped. A worker takes 1.0 to 1.6 GB."""


def default_workers(device: torch.device) -> int:
    """Local workers where none are asked for: one for each core of a CPU that memory allows.

    On a card one, until more are found to be faster there (`workers.calibration`).

    Small students leave most of a second thread idle: on two cores two workers of one thread each
    tried 1.26 times as many students an hour as one of two threads on one day, and 1.68 times as
    many on another (`benchmarks/scaling.py`).
    """
    if device.type != "cpu":
        return 1
    return max(1, min(cores(), MOST_WORKERS, free_bytes() // WORKER_BYTES))


def set_threads(processes: int) -> None:
    """Gives each of so many local processes its share of the cores."""
    use_threads(share_of_threads(processes))


def share_of_threads(processes: int) -> int:
    """Threads of each of so many local processes that share the cores."""
    return max(1, cores() // processes)


def use_threads(count: int) -> None:
    """Has this process compute in so many threads; see `keep_freed_memory`."""
    torch.set_num_threads(count)
    keep_freed_memory()


KEPT_BYTES = 512 << 20
"""Of freed memory that a process keeps for its next tensors."""
OLD_GLIBC_BYTES = 32 << 20
"""Largest tensor for which an older glibc (to 2.34 or so) does so at all."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


def keep_freed_memory() -> bool:
    """Has the C library use freed memory again instead of giving it back to the system.

    By itself glibc asks the system anew for every tensor of more than 32 MB, which must then be
    filled with zeros, page by page: with photographs that takes longer than computing does.

    Returns:
        Whether that could be set: not without glibc, and in part with one that is old.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim, mapped = mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES), mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
    return bool(trim and (mapped or mallopt(_M_MMAP_THRESHOLD, OLD_GLIBC_BYTES)))


def give_freed_memory_back() -> None:
    """Gives all that a process keeps back to the system: what comes next may need other sizes."""
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, memory and accelerator, for the report."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "processor": model,
        "cores": cores(),
        "memory_gib": round(memory, 1),
        "accelerator": accelerator,
        "system": platform.platform(terse=True),
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
