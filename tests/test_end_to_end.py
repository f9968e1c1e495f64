"""The main job in small: real data, a real SQLite file, real processes, a real ONNX Runtime."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from small_study import KILLED_SEARCH, RECIPE, prepare

import nasdistill
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.common.locks import is_held
from nasdistill.finals import pipeline
from nasdistill.recipe import load_recipe
from nasdistill.results import COUNTED, candidates_frame, keys, load_study
from nasdistill.study import Study
from nasdistill.training import Diverged
from nasdistill.trials.context import Deadlines, open_context
from nasdistill.trials.plugins import load_plugins

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("done"), RECIPE + "baseline: true\n")
    subprocess.run(
        [sys.executable, str(KILLED_SEARCH), "never"], cwd=folder, check=True, timeout=300
    )
    return folder


def test_metrics_hold_what_was_promised(done: Path) -> None:
    record = load_study("small", done / "studies")
    final = record.finals[0]
    m: Any = json.loads((final.folder / "metrics.json").read_text())
    assert m["retention"] == pytest.approx(m["test_accuracy"] / m["teacher_test_accuracy"])
    low, high = m["test_interval"]
    assert low < m["test_accuracy"] <= high
    assert m["compression"] == pytest.approx(m["teacher_params"] / m["params"])
    assert m["limits"]["params"] == {"limit": 10_000.0, "value": m["params"], "ok": True}
    assert m["onnx_max_abs_difference"] <= 1e-4
    assert {(row["model"], row["batch"]) for row in m["latency"]} == {
        ("student", 1),
        ("student", 64),
        ("teacher", 1),
        ("teacher", 64),
    }
    assert 0 < m["class_relation_preservation"] <= 1 and 0 <= m["ece"] <= 1
    assert 0 < m["baseline"]["test_accuracy"] <= 1
    assert set(m["seconds"]) == {"distill", "baseline", "test", "export"}
    assert sum(f.recommended for f in record.finals) == 1
    assert m["micro_batch"] is None and {c.micro_batch for c in record.candidates} == {None}


def test_the_tested_accuracy_is_that_of_the_exported_file(done: Path) -> None:
    final = load_study("small", done / "studies").finals[0]
    arrays = np.load(done / "blobs.npz")
    session = onnxruntime.InferenceSession(str(final.folder / "model.onnx"))
    images = arrays["test_images"][:, None].astype(np.float32) / 255
    (logits,) = session.run(None, {"images": images})
    share = float((logits.argmax(axis=1) == arrays["test_labels"]).mean())
    assert share == pytest.approx(final.metrics["test_accuracy"])
    loaded = nasdistill.load(final.folder)
    with torch.inference_mode():
        assert np.allclose(loaded(torch.from_numpy(images)).numpy(), logits, atol=1e-4)


def test_stopped_trials_have_fewer_rungs_and_a_reason(done: Path) -> None:
    record = load_study("small", done / "studies")
    states = {c.state for c in record.candidates}
    assert {"complete", "stopped", "rejected"} <= states
    for c in record.candidates:
        if c.state == "complete":
            assert len(c.rungs) == 3
        if c.state == "stopped":
            assert 1 <= len(c.rungs) < 3 and c.reason
        if c.state == "rejected":
            assert c.rungs == () and (c.params or 0) > 10_000


def test_plain_pandas_reads_the_study(done: Path) -> None:
    import optuna

    study = optuna.load_study(
        study_name="small", storage=f"sqlite:///{done / 'studies/small/study.db'}"
    )
    frame = study.trials_dataframe()
    complete = frame[frame.state == "COMPLETE"]
    assert (complete.user_attrs_score_2 == complete.values_accuracy).all()
    assert (complete.user_attrs_params == complete.values_params).all()
    ours = candidates_frame(load_study("small", done / "studies").candidates)
    assert isinstance(ours, pd.DataFrame) and len(ours) == len(frame)


def test_the_report_is_there(done: Path) -> None:
    text = (done / "reports/small/index.html").read_text()
    assert "Plotly" in text and "small" in text


def test_another_recipe_is_refused_with_the_keys_that_differ(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    with pytest.raises(UserError, match=r"(?s)another recipe.*seed: was 0, now 5"):
        nasdistill.search(load_recipe("recipe.yaml", {"seed": 5}))


def test_more_finals_of_a_chosen_trial(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    record = load_study("small", done / "studies")
    made = {final.number for final in record.finals}
    stopped = next(c.number for c in record.candidates if c.state == "stopped")
    outcome = nasdistill.distill("small", trial=stopped)
    assert {final.number for final in outcome.record.finals} == made | {stopped}
    with pytest.raises(UserError, match=r"--trial 999: no such trial"):
        nasdistill.distill("small", trial=999)


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    both = [
        subprocess.Popen(
            [sys.executable, str(KILLED_SEARCH), "never"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    record = load_study("small", folder / "studies")
    counted = [c for c in record.candidates if c.state in COUNTED]
    assert len(counted) == 7
    assert len({c.fingerprint for c in counted}) == 7
    assert record.state == "complete" and record.finals
    assert len({final.number for final in record.finals}) == len(record.finals)


def test_local_workers_share_trials_and_finals(here: Path) -> None:
    # Without the guard that multiprocessing asks for: this is how people write scripts. What the
    # --import file imports lies beside the script.
    Path("beside.py").write_text("")
    Path("own.py").write_text("import beside\n" + Path("own.py").read_text())
    Path("mine.py").write_text(
        """
import sys, threading
import nasdistill
from nasdistill.recipe import load_recipe

heard = {"search": threading.Event(), "finals": threading.Event()}

def tell(event):
    print(event.kind, event.stage, event.text, file=sys.stderr)
    if event.kind != "progress" or event.stage not in heard:
        return
    if threading.current_thread() is threading.main_thread():
        assert heard[event.stage].wait(120), "the other worker is not at it"
    else:
        heard[event.stage].set()

# All climb, so that more than one lies on the front.
nasdistill.search(load_recipe("recipe.yaml", {"workers": 2, "stopping": False}), on_event=tell)
"""
    )
    # The study's name follows from the recipe: workers must find the same one.
    recipe = Path("recipe.yaml")
    recipe.write_text(recipe.read_text().replace("study: small\n", ""))
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    (folder,) = (path.parent for path in here.glob("studies/*/recipe.yaml"))
    record = load_study(folder.name, here / "studies")
    counted = [c for c in record.candidates if c.state in COUNTED]
    assert len(counted) == 7 and record.state == "complete" and len(record.finals) == 2
    assert done.stderr.count("stage teacher data") == 1
    assert not list(folder.glob("finals/.work*"))


def test_who_fails_to_hear_a_worker_does_not_stop_it(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sitecustomize.py").write_text("print('what Python starts with may print, too')")
    monkeypatch.setenv("PYTHONPATH", str(here))
    heard = threading.Event()

    def deaf(event: Event) -> None:
        if threading.current_thread() is not threading.main_thread():
            heard.set()
            raise ValueError("cannot hear")
        assert event.kind != "progress" or heard.wait(120), "the other worker is not at it"

    own = Path("own.py")
    own.write_text("import os\nos.system('echo no event')\n" + own.read_text())
    recipe = load_recipe("recipe.yaml", {"workers": 2, "stopping": False})
    outcome = nasdistill.search(recipe, on_event=deaf)
    assert outcome.record.state == "complete" and len(outcome.record.finals) == 2
    stderr = capfd.readouterr().err
    assert stderr.count("ValueError: cannot hear") == 1 and "no event" in stderr


def test_a_worker_that_dies_leaves_its_trial_to_the_others(here: Path) -> None:
    dead = threading.Event()
    at_work: set[int | None] = set()
    warned: list[str] = []

    def kill_the_other(event: Event) -> None:
        if event.kind == "warning":
            warned.append(event.text)
        if threading.current_thread() is threading.main_thread():
            assert event.kind != "progress" or dead.wait(120), "the other worker had no trial"
        elif event.kind == "progress" and not dead.is_set():
            at_work.add(event.trial)
            thread = threading.main_thread().native_id
            for pid in Path(f"/proc/self/task/{thread}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            dead.set()

    outcome = nasdistill.search(load_recipe("recipe.yaml", {"workers": 2}), on_event=kill_the_other)
    counted = [c for c in outcome.record.candidates if c.state in COUNTED]
    assert len(counted) == 7 and outcome.record.state == "complete" and outcome.record.finals
    assert at_work <= {c.number for c in counted}
    assert "a worker ended by signal 9; the others take over what it was at" in warned


def test_finals_let_measurements_in_and_keep_to_the_time_limit(here: Path) -> None:
    held: set[bool] = set()

    def look(event: Event) -> None:
        if event.kind == "progress" and event.stage == "finals":
            held.add(is_held(Path("studies/small/latency.lock")))

    recipe = load_recipe("recipe.yaml", {"top_k": 1})
    outcome = nasdistill.search(recipe, on_event=look)
    assert held == {False}
    study = Study.open(recipe, Path("studies"), "")
    context = open_context(study, load_plugins(recipe.import_file), look)
    made = {final.number for final in outcome.record.finals}
    another = next(c.number for c in study.candidates() if c.rungs and c.number not in made)
    study.write(keys.FINALS, [*made, another])
    trained = Path(f"studies/small/finals/.work-{another}/seconds.json")
    context.deadlines = Deadlines(whole=time.monotonic())
    pipeline.train_ahead(context)
    assert not trained.exists()
    context.deadlines = Deadlines()
    pipeline.train_ahead(context)
    assert trained.exists()


def test_a_diverging_student_fails_and_the_study_goes_on(here: Path) -> None:
    Path("own.py").write_text(
        Path("own.py").read_text()
        + """

class Broken(nn.Module):
    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.net(x) * self.factor


def build(architecture, input, classes):
    values = architecture.values
    inside = input.channels * input.height * input.width
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(inside, values["width"]), nn.ReLU(),
        nn.Linear(values["width"], classes),
    )
    return Broken(net, float("nan") if values["broken"] else 1.0)
"""
    )
    Path("tiny.yaml").write_text(
        "name: own\nfamily: own\nparameters:\n"
        "  width: {choice: [4, 8, 12]}\n  broken: {choice: [true, false]}\n"
    )
    events: list[Event] = []
    recipe = load_recipe("recipe.yaml", {"trials": 50})
    outcome = nasdistill.search(recipe, on_event=events.append)
    failed = [c for c in outcome.record.candidates if c.state == "failed"]
    assert len(failed) == 3 and all("the loss became nan" in (c.reason or "") for c in failed)
    assert outcome.record.finals
    # Six architectures in all: the space is exhausted long before fifty trials.
    assert len(outcome.record.candidates) == 6
    assert any("no new architecture" in event.text for event in events)


def test_without_stopping_every_trial_climbs_every_rung(here: Path) -> None:
    outcome = nasdistill.search(load_recipe("recipe.yaml", {"stopping": False, "trials": 3}))
    counted = [c for c in outcome.record.candidates if c.state in COUNTED]
    assert [len(c.rungs) for c in counted] == [3, 3, 3]


@pytest.mark.parametrize("sampler", ["random", "nsga2", "qmc"])
def test_other_samplers(here: Path, sampler: str) -> None:
    recipe = load_recipe("recipe.yaml", {"sampler": sampler, "trials": 4, "top_k": 1})
    outcome = nasdistill.search(recipe)
    counted = [c for c in outcome.record.candidates if c.state in COUNTED]
    assert len({c.fingerprint for c in counted}) == 4


def test_limits_that_nothing_keeps(here: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)none of \d+ architectures.*The closest has"):
        nasdistill.search(load_recipe("recipe.yaml", {"max_params": 100}))


@pytest.mark.parametrize("storage", [None, "journal:there.log", "sqlite:///there.db"])
def test_a_search_that_could_not_begin_binds_nothing(here: Path, storage: str | None) -> None:
    options = {"trials": 2, "top_k": 1, "final_budget": "1 epochs", "storage": storage}
    with pytest.raises(UserError, match="keeps the limits"):
        nasdistill.search(load_recipe("recipe.yaml", {**options, "max_params": 10}))
    assert not Path("studies/small").exists()
    outcome = nasdistill.search(load_recipe("recipe.yaml", options))
    assert outcome.record.state == "complete"


def test_a_storage_that_cannot_be_opened_leaves_no_folder(here: Path) -> None:
    with pytest.raises(UserError, match="'nosuch://x' is of a kind for which no driver"):
        nasdistill.search(load_recipe("recipe.yaml", {"storage": "nosuch://x"}))
    assert not Path("studies/small").exists()


def test_who_fails_to_open_a_study_leaves_that_of_another(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Study._open

    def second(*given: Any) -> Study:
        made(*given)  # another process was quicker to the lock
        raise UserError("made with another recipe")

    monkeypatch.setattr(Study, "_open", second)
    with pytest.raises(UserError, match="another recipe"):
        Study.open(load_recipe("recipe.yaml", {}), Path("studies"), "")
    assert Path("studies/small/recipe.yaml").is_file()


def test_finals_are_not_asked_for_beside_a_search(here: Path) -> None:
    nasdistill.search(load_recipe("recipe.yaml", {"top_k": 1, "final_budget": "1 epochs"}))
    study = Study.open(
        load_recipe("recipe.yaml", {"top_k": 1, "final_budget": "1 epochs"}), Path("studies"), ""
    )
    before = study.require(keys.FINALS)
    other = next(c.number for c in study.candidates() if c.rungs and c.number not in before)
    with study.finals_lease() as mine:
        assert mine
        with pytest.raises(UserError, match="another process is making its finals"):
            nasdistill.distill("small", trial=other)
    assert study.read(keys.FINALS) == before
    nasdistill.distill("small", trial=other)
    assert study.read(keys.FINALS) == [*before, other]


def test_a_study_that_goes_on_says_so(here: Path) -> None:
    nasdistill.search(load_recipe("recipe.yaml", {"trials": 3, "top_k": 1}))
    assert load_study("small", Path("studies")).state == "complete"
    states = []

    def look(event: Event) -> None:
        states.append(load_study("small", Path("studies")).state)

    nasdistill.search(load_recipe("recipe.yaml", {"trials": 4, "top_k": 1}), on_event=look)
    assert states[0] == "searching" and load_study("small", Path("studies")).state == "complete"


def test_a_teacher_no_better_than_chance_stops_the_search(here: Path) -> None:
    Path("own.py").write_text(
        "from torch import nn\n\n\ndef bars(classes, input):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(256, classes))\n"
        "    nn.init.zeros_(net[1].weight)\n    return net\n"
    )
    with pytest.raises(UserError, match="barely better than chance"):
        nasdistill.search(load_recipe("recipe.yaml", {}))


def test_the_readmes_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["best"].metrics["test_accuracy"] > 0.3
    assert Path("reports/example/index.html").is_file()


def test_a_time_limit_ends_the_search_and_leaves_the_finals_their_share(here: Path) -> None:
    messages: list[str] = []
    recipe = load_recipe("recipe.yaml", {"trials": 100_000, "time_limit": "6s", "space": "mlp"})
    outcome = nasdistill.search(recipe, on_event=lambda event: messages.append(event.text))
    assert "the search's share of the time limit is used up" in messages
    assert 0 < sum(c.state in COUNTED for c in outcome.record.candidates) < 100_000
    assert outcome.record.finals and outcome.record.state != "complete"
    assert not outcome.already_complete


def test_finals_and_scores_have_terms_of_their_own(here: Path) -> None:
    messages: list[str] = []
    terms = [{"term": "labels", "weight": 0.2}, {"term": "dist"}, {"term": "dkd", "weight": 0.1}]
    recipe = load_recipe("recipe.yaml", {"final": {"terms": terms}, "trials": 3, "top_k": 1})
    outcome = nasdistill.search(recipe, on_event=lambda event: messages.append(event.text))
    assert outcome.record.finals[0].metrics["test_accuracy"] > 0.6
    assert not any("rank them wrongly" in text for text in messages)
    odd = {"scoring": {"terms": terms}, "trials": 1, "top_k": 1, "study": "odd"}
    nasdistill.search(load_recipe("recipe.yaml", odd), on_event=lambda e: messages.append(e.text))
    assert any("scored after training on dist, dkd" in text for text in messages)


def test_a_final_that_fails_leaves_the_others(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, messages = pipeline._make_final, []

    def once_broken(context: Any, candidate: Any, rank: int) -> None:
        if rank == 1:
            raise Diverged("the loss became nan after 50 training examples")
        made(context, candidate, rank)

    monkeypatch.setattr(pipeline, "_make_final", once_broken)
    recipe = load_recipe("recipe.yaml", {"stopping": False, "min_accuracy": 0})
    outcome = nasdistill.search(recipe, on_event=lambda event: messages.append(event.text))
    assert any("failed: the loss became nan after 50" in text for text in messages)
    assert [final.rank for final in outcome.record.finals] == [2]
    assert outcome.record.state == "complete"
    assert nasdistill.search(recipe).already_complete


def test_an_architecture_that_a_family_cannot_build_fails(here: Path) -> None:
    own = Path("own.py")
    own.write_text(
        own.read_text()
        + """

def build(architecture, input, classes):
    width = architecture.values["width"]
    inside = input.channels * input.height * input.width
    return nn.Sequential(nn.Flatten(), nn.Linear(inside, 64 // (width % 8)), nn.ReLU(),
                         nn.Linear(64 // (width % 8), classes))
"""
    )
    Path("tiny.yaml").write_text("name: o\nfamily: own\nparameters: {width: {int: [4, 12]}}\n")
    outcome = nasdistill.search(load_recipe("recipe.yaml", {"trials": 9, "max_params": "1M"}))
    failed = [c for c in outcome.record.candidates if c.state == "failed"]
    assert [c.architecture["values"]["width"] for c in failed] == [8]
    assert "raised ZeroDivisionError" in (failed[0].reason or "") and "own.py:" in failed[0].reason
    assert outcome.record.finals


def test_a_worker_ends_with_its_parent(here: Path) -> None:
    main = "import sys; from nasdistill.__main__ import main; main()"
    command = [sys.executable, "-c", main, "search", "--recipe", "recipe.yaml", "--workers", "2"]
    with open("log", "w") as log:
        process = subprocess.Popen([*command, "--trials", "500"], stdout=log, stderr=log)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while "rung 0" not in Path("log").read_text():
        assert process.poll() is None, Path("log").read_text()
        time.sleep(0.1)
    workers = [Path("/proc", pid) for pid in children.read_text().split()]
    assert workers
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while any((worker / "exe").exists() for worker in workers):
        assert time.monotonic() < until, "a worker went on without its parent"
        time.sleep(0.1)
