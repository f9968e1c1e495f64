"""A study made up to be reported, and a browser that draws the page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nasdistill.report import write_report
from nasdistill.results import Candidate, Final, RungScore, State, StudyRecord

NASTY = "</script><script>alert(1)</script>"
QUOTES = """it's "quoted" & <b>bold</b> ${danger} $title %{x}"""
BUDGETS = (1_000, 3_000, 9_000)


def score(rung: int, accuracy: float) -> RungScore:
    budget = BUDGETS[rung]
    return RungScore(rung, budget, accuracy, accuracy - 0.015, accuracy + 0.014, 0.4, budget / 900)


def candidate(number: int, rng: random.Random) -> Candidate:
    width, block = rng.choice([8, 12, 16, 24, 32]), rng.choice(["mbconv", "ghost", NASTY])
    params, ability = width**2 * 90 + number, 0.8 + width / 350 + rng.uniform(-0.02, 0.02)
    stages = [{"block": {"type": block, "expansion": rng.randint(2, 6)}, "width": width}] * 4
    parameters: dict[str, Any] = {"stem": width, "stages.0.block": block, QUOTES: number % 3}
    if block == "mbconv":
        parameters["stages.0.block.mbconv.expansion"] = rng.uniform(2, 6)
    base = Candidate(
        number,
        "complete",
        {"family": "mobile", "values": {"stem": width, "stages": stages}},
        f"{number:016x}",
        parameters,
        params,
        params * 40,
        params * 4 + 900,
        width / 60,
    )
    if number % 7 == 3:
        reason = f"{NASTY} {params} parameters > 60000 & more"
        return dataclasses.replace(base, state="rejected", latency=None, reason=reason)
    if number == 11:
        return dataclasses.replace(base, state="failed", reason=f"loss is not finite {QUOTES}")
    rungs = 1 + number % 3 if number % 2 else 3
    scores = tuple(score(i, ability - 0.12 + 0.05 * i) for i in range(rungs))
    state: State = "complete" if rungs == 3 else "stopped"
    return dataclasses.replace(base, state=state, rungs=scores)


def metrics(trial: Candidate, test: float, **changed: Any) -> dict[str, Any]:
    latency = [
        {
            "model": model,
            "engine": "onnxruntime",
            "batch": batch,
            "threads": 1,
            "median_ms": ms,
            "q1_ms": 0.95 * ms,
            "q3_ms": 1.1 * ms,
        }
        for batch in (1, 64)
        for model, ms in (("student", 0.31 * batch), ("teacher", 1.24 * batch))
    ]
    return {
        "test_accuracy": test,
        "test_interval": [test - 0.008, test + 0.008],
        "teacher_test_accuracy": 0.922,
        "retention": test / 0.922,
        "agreement": 0.93,
        "class_relation_preservation": 0.991,
        "ece": 0.021,
        "teacher_ece": 0.015,
        "params": trial.params,
        "macs": trial.macs,
        "bytes": trial.bytes,
        "onnx_bytes": 401_000,
        "teacher_params": 1_050_000,
        "teacher_macs": 60_000_000,
        "compression": 13.1,
        "latency": latency,
        "speedup": 4.0,
        "seconds": {"distill": 31.2, "export": 2.1},
        "baseline": {"test_accuracy": test - 0.012, "test_interval": [test - 0.02, test - 0.004]},
        "limits": {
            "latency": {"limit": 0.5, "value": 0.31, "ok": True},
            "params": {"limit": 100_000, "value": trial.params, "ok": True},
            "accuracy": {"limit": 0.83, "value": 0.905, "ok": True},
        },
        "onnx_max_abs_difference": 3.1e-6,
        "checkpoint": "last",
        "epochs": 8,
        "trial": trial.number,
        "fingerprint": trial.fingerprint,
        "recommended": False,
    } | changed


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    rng = random.Random(1)
    candidates = [candidate(number, rng) for number in range(32)]
    best = sorted((c for c in candidates if c.state == "complete"), key=lambda c: -(c.score or 0))
    broken = {"latency": {"limit": 0.3, "value": 0.31, "ok": False}}
    tested = [
        metrics(best[0], 0.912, recommended=True),
        metrics(best[1], 0.905, limits=broken, baseline=None),
        metrics(best[4], 0.89, checkpoint="best", latency=[], speedup=None),
    ]
    finals = [Final(i + 1, m["trial"], tmp_path / f"{i + 1}", m) for i, m in enumerate(tested)]
    return StudyRecord(
        name=f"study {NASTY}",
        folder=tmp_path,
        state="complete",
        recipe={
            "space": "mobile",
            "minimize": ["latency", "params"],
            "seed": 0,
            "note": QUOTES,
            "objective": [{"kl": {"weight": 0.9, "temperature": 4}}, {"labels": 0.1}],
        },
        command=f"nasdistill search --space mobile --study '{NASTY}'",
        teacher={
            "name": f"teacher {QUOTES}",
            "params": 1_050_000,
            "macs": 60_000_000,
            "bytes": 4_210_000,
            "test_accuracy": 0.922,
            "validation_accuracy": 0.925,
            "ece": 0.015,
            "latency": 1.2,
        },
        data={
            "name": "fashion-mnist-mini",
            "classes": ["Coat", NASTY],
            "input": [1, 28, 28],
            "examples": {"train": 10_000, "score": 1000, "audit": 1000, "test": 5000},
        },
        machine={"processor": "x86_64", "cores": 2, "memory": "8 GB", "accelerator": None},
        versions={"python": "3.12.1", "torch": "2.11.0"},
        limits={"params": 100_000, "latency": 0.5, "accuracy": 0.83},
        rungs=BUDGETS,
        stages={
            "teacher answers": 12.1,
            "gates": 1.2,
            "latency": 9.0,
            "rungs": 110.3,
            "finals": 88.0,
            "export": 7.7,
            NASTY: 0.4,
        },
        savings={"stopping": 61_000, "cache": 140_000, "gates": 36_000},
        candidates=candidates,
        finals=finals,
    )


@pytest.fixture
def page(record: StudyRecord, tmp_path: Path) -> str:
    write_report(record, tmp_path / "out" / "index.html")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]
    return (tmp_path / "out" / "index.html").read_text("utf-8")


def embedded(page: str) -> dict[str, Any]:
    inner = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert inner is not None
    result: dict[str, Any] = json.loads(inner.group(1))
    return result


def own_text(page: str) -> str:
    """The page without the inlined Plotly."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def drawn_in_chromium(page: str, folder: Path, theme: str) -> None:
    """Draws a page that lies in `folder`/out with a real browser, which must not complain."""
    done = _in_chromium(folder, folder / "out" / "index.html", theme)
    assert 'data-ready="yes"' in done and f'data-theme="{theme}"' in done
    assert 'data-title="Share' not in done  # the button that would upload a figure
    for name in embedded(page):
        box = done.split(f'id="{name}"', 1)[1].split("</section>", 1)[0]
        assert "main-svg" in box and 'class="trace' in box, name


def switched_in_chromium(folder: Path, theme: str, buttons: list[str]) -> list[dict[str, Any]]:
    """Presses buttons of the page in `folder`/out, one after the other, in a real browser.

    Args:
        folder: Where the page is in `out/index.html`.
        theme: `light` or `dark`.
        buttons: CSS selectors.

    Returns:
        What the first figure shows at first, and after each: points `[x, y]` by legend name.
    """
    steps = "".join(f"press({json.dumps(each)});" for each in buttons)
    script = (
        'addEventListener("load", () => setTimeout(() => {'
        'const box = document.getElementById("trade-off"), seen = [];'
        "const look = () => seen.push(Object.fromEntries(box.data.map((t) =>"
        " [t.name, Array.from(t.x, (x, i) => [x, t.y[i]])])));"
        "const press = (button) => { document.querySelector(`button${button}`).click(); look(); };"
        f"look(); {steps}"
        'const out = document.createElement("script"); out.type = "application/json";'
        'out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);'
        "}, 2000));"
    )
    page = (folder / "out" / "index.html").read_text("utf-8")
    # The page's own policy forbids every script but its own: allow this one, too.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    pressing = folder / "pressing.html"
    pressing.write_text(page.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    seen = _in_chromium(folder, pressing, theme).rsplit('id="seen">', 1)[1].split("</script>")[0]
    result: list[dict[str, Any]] = json.loads(seen)
    return result


def _in_chromium(folder: Path, page: Path, theme: str) -> str:
    """The page as a real browser has it in the end; it must not complain."""
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        pytest.skip("no Chromium on this machine: the report was not drawn")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1280,900",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            page.as_uri() + f"#{theme}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    return done.stdout
