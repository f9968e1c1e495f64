"""What the benchmarks share: the setting, robust figures, and where results are written."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nasdistill.common.machine import describe_machine, describe_versions
from nasdistill.data import Dataset, load_data
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.teachers import LogitPrecision, Teacher, load_teacher
from nasdistill.training.precision import emulates_bf16
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import TrainingSetup, open_setup

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
CACHE = ROOT / "studies" / ".cache"


@dataclass(frozen=True)
class Setting:
    """The shipped job: its data, its teacher, and what a student is given.

    Attributes:
        recipe: Shipped defaults, but for what a benchmark changes.
        data: The shipped data.
        teacher: The shipped teacher.
        setup: Labels and KL, as trials are scored.
        labels: The same stream on labels alone.
        device: Where it all lives.
    """

    recipe: Recipe
    data: Dataset
    teacher: Teacher
    setup: TrainingSetup
    labels: TrainingSetup
    device: torch.device


def open_setting(
    seed: int = 0,
    *,
    device: str = "cpu",
    cache: Path = CACHE,
    spec: str = "fashion-mnist-mini",
    teacher: str = "shipped",
    **changes: Any,
) -> Setting:
    """Loads data and teacher, and puts the setup together.

    Args:
        seed: Of the order of examples, of their views and of weights; the data's split keeps 0.
        device: Of data, teacher and students.
        cache: Folder of the teacher's answers.
        spec: Data, as `--data` takes them.
        teacher: As `--teacher` takes it.
        changes: Keys of the recipe.
    """
    recipe = load_recipe(None, {"data": spec, "seed": seed, **changes})
    where = torch.device(device)
    data = load_data(spec, device=where, seed=0)
    frozen = load_teacher(teacher, data, device=where)
    if recipe.precision == "auto":
        frozen.precision = quick_precision(frozen)
    teacher_pool = TeacherPool(
        data, frozen, recipe.teachers, no_further, cache, lambda examples, seconds: None, print
    )
    setup = open_setup(recipe.scoring, recipe, teacher_pool)
    return Setting(recipe, data, frozen, setup, setup.labels_only(), where)


def quick_precision(teacher: Teacher) -> LogitPrecision:
    """bf16 for a teacher's answers, or fp32 where the processor emulates bf16."""
    return "fp32" if emulates_bf16(teacher.module) else "bf16"


def no_further(name: str, options: Any) -> Any:
    """No benchmark loads a second model."""
    raise NotImplementedError(name)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def in_turn(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Runs all sides in one process, one after the other, again and again.

    Args:
        sides: Each does its work and gives its figure (seconds, say).
        repeats: Rounds; every second one goes backwards, so that no side is always first.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in order:
            values[name].append(sides[name]())
            print(f"{turn + 1}/{repeats} {name}: {values[name][-1]:.4g}", flush=True)
    return values


def ratios(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the ratios of what was measured in the same round."""
    return quartiles([a / b for a, b in zip(of, to, strict=True)])


def spread(values: tuple[float, float, float], digits: int = 2) -> str:
    """`median (lower–upper quartile)`."""
    low, middle, high = values
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def clock(device: torch.device) -> float:
    """Seconds, read when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def verdict(
    what: str, value: float, target: float, *, at_most: bool = False, unit: str = ""
) -> str:
    """`what`, the target, and whether it was met, as one sentence."""
    met = value <= target if at_most else value >= target
    sign = "≤" if at_most else "≥"
    return (
        f"{what}: target {sign} {target:g}{unit}, {'met' if met else 'missed'} ({value:.4g}{unit})."
    )


def name_on(name: str, device: str) -> str:
    """A benchmark's name; its GPU figures stand beside those of the CPU."""
    return f"{name}_cuda" if device.startswith("cuda") else name


def place(device: str, threads: int) -> str:
    """`on PROCESSOR, N threads`, and the card where there is one."""
    description = describe_machine(torch.device(device))
    card = "" if description["accelerator"] == "none" else f" and one {description['accelerator']}"
    return f"on {description['processor']}{card}, {threads} thread{'s' if threads > 1 else ''}"


def machine(device: str = "cpu") -> dict[str, Any]:
    """What figures were measured on."""
    return {**describe_machine(torch.device(device)), **describe_versions()}


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def met(is_met: bool) -> str:
    """What became of a target."""
    return "met" if is_met else "missed"


def write(name: str, results: Mapping[str, Any], text: str, page: Path = PAGE) -> None:
    """Writes `benchmarks/NAME.json`, and the text into its place in a page.

    Args:
        name: Of the benchmark.
        results: Plain JSON values.
        text: Markdown, to stand between the marks of that name.
        page: The page.
    """
    (HERE / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    whole = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    page.write_text(whole, encoding="utf-8")
    print(text)


def save_picture(figure: Any, path: Path) -> None:
    """Writes a Plotly figure with a width and a height as PNG, by headless Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        print(f"no Chromium: {path.name} is not drawn")
        return
    size = f"{figure.layout.width + 16},{figure.layout.height + 16}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(figure.to_html(config={"displayModeBar": False}))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={size}", "--virtual-time-budget=8000"]
        command += [f"--user-data-dir={folder}/profile", f"--screenshot={path}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
