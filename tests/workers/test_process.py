"""Local workers: real processes that are given tasks, listened to, and ended."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_study import OpenContext

from nasdistill.common.events import Event
from nasdistill.common.processes import is_stopped, process_status
from nasdistill.recipe import load_recipe
from nasdistill.results import COUNTED
from nasdistill.workers import process as local
from nasdistill.workers.pool import PoolSize, choose_size
from nasdistill.workers.process import WorkerPool, started_workers


def script(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def listen(process: subprocess.Popen[str]) -> tuple[list[Event], list[float]]:
    events: list[Event] = []
    replies: queue.SimpleQueue[float] = queue.SimpleQueue()
    local._listen(process, events.append, replies, threading.Event())
    numbers = []
    while not replies.empty():
        numbers.append(replies.get())
    return events, numbers


def test_events_and_numbers_pass_and_noise_does_not() -> None:
    code = (
        "import json\n"
        "print('loading weights: 100 %')\n"
        "print(json.dumps({'answer': 2.5}))\n"
        "print(json.dumps({'kind': 'note', 'text': 'hello', 'front': [[1, 0.5, 10.0]]}))\n"
        "print(json.dumps([1, 2])); print(json.dumps({'colour': 'red'})); print('{')\n"
    )
    events, numbers = listen(script(code))
    assert events == [Event("note", "hello", front=((1, 0.5, 10.0),))] and numbers == [2.5]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import sys; sys.exit(3)", "with status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "by signal 9"),
    ],
)
def test_one_that_dies_is_told_of(code: str, cause: str) -> None:
    events, _ = listen(script(code))
    assert [(e.kind, e.text) for e in events] == [
        ("warning", f"a worker ended {cause}; the others take over what it was at")
    ]


def test_one_that_ends_in_order_is_not() -> None:
    assert listen(script("pass")) == ([], [])


def test_tasks_go_to_all_and_threads_are_shared() -> None:
    echo = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    workers = WorkerPool((script(echo), script(echo)))
    try:
        assert workers.size == 3
        workers.assign("search", 3, begun=1.5)
        for process in workers.others:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == '{"do": "search", "processes": 3, "begun": 1.5}\n'
        os.kill(workers.others[0].pid, signal.SIGKILL)
        workers.others[0].wait()
        assert workers.size == 2
        workers.assign("finals", 1)  # the dead one's closed pipe is no error
    finally:
        for process in workers.others:
            process.kill()


def test_replies_are_waited_for_and_no_longer_than_told() -> None:
    workers = WorkerPool((script("import time; time.sleep(60)"),))
    try:
        start = time.monotonic()
        assert workers.wait_for_replies(0.5) == [] and time.monotonic() - start < 10
        workers.replies.put(4.0)
        assert workers.wait_for_replies(30) == [4.0]
    finally:
        workers.others[0].kill()


def test_sizes() -> None:
    assert choose_size(load_recipe(None, {"workers": 3}), None) == PoolSize(3, False)
    assert choose_size(load_recipe(None, {"deterministic": True}), None) == PoolSize(1, False)
    on_cpu = choose_size(load_recipe(None, {"device": "cpu"}), None)
    assert on_cpu.workers >= 1 and not on_cpu.provisional


def test_workers_run_trials_and_train_finals(opened: OpenContext) -> None:
    context = opened(workers=2, trials=4, stopping=False, final_budget="1 epochs")
    study = context.study
    emitted: list[Event] = []
    with started_workers(study, emitted.append) as workers:
        assert workers.size == 2 and not workers.provisional
        workers.assign("search", 2, begun=time.monotonic())
        deadline = time.monotonic() + 120
        while sum(c.state == "complete" for c in study.candidates()) < 4:
            assert time.monotonic() < deadline, [e.text for e in emitted]
            time.sleep(0.2)
        from nasdistill.results import keys

        chosen = [c.number for c in study.candidates() if c.state in COUNTED][:1]
        study.write(keys.FINALS, chosen)
        workers.assign("finals", 1)
        trained = Path(f"studies/small/finals/.work-{chosen[0]}/seconds.json")
        while not trained.exists():
            assert time.monotonic() < deadline, [e.text for e in emitted]
            time.sleep(0.2)
        process = workers.others[0]
    assert process.poll() is not None, "it went on after its command"
    assert {e.kind for e in emitted} >= {"progress", "rung", "trial"}
    assert not [e.text for e in emitted if e.kind == "warning"]
    assert not any(e.kind == "stage" or e.stage == "teacher" for e in emitted)


def stopped(code: str) -> subprocess.Popen[str]:
    process = script(code)
    process.send_signal(signal.SIGSTOP)
    while not is_stopped(process.pid):
        time.sleep(0.01)
    return process


def test_a_worker_that_stays_stopped_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(local, "LEASE_SECONDS", 0.5)
    processes = [stopped("import time; time.sleep(60)"), script("import time; time.sleep(60)")]
    emitted: list[Event] = []
    over = threading.Event()
    watch = threading.Thread(target=local._end_stopped, args=(processes, emitted.append, over))
    watch.start()
    try:
        time.sleep(0.2)
        assert processes[0].poll() is None, "it was not stopped for long"
        assert processes[0].wait(20) == -signal.SIGKILL and processes[1].poll() is None
        assert [e.text for e in emitted] == ["a worker was stopped for 0 s and is ended"]
    finally:
        over.set()
        watch.join()
        local.end_all(processes)


def test_workers_have_a_moment_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ENDING_SECONDS", 0.5)
    in_order = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    rest = "print('ready', flush=True); time.sleep(60)"
    processes = [script(in_order + rest), script(deaf + rest)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    processes.append(stopped("import time; time.sleep(60)"))
    start = time.monotonic()
    local.end_all(processes)
    assert [process.poll() for process in processes] == [7, -signal.SIGKILL, -signal.SIGKILL]
    assert time.monotonic() - start < 10


def test_a_stopped_worker_ends_with_its_parent() -> None:
    parent = script(
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'from nasdistill.common.processes import "
        "die_with_parent as die; die(); print(flush=True); __import__(\\'time\\').sleep(60)'], "
        "stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); child.send_signal(signal.SIGSTOP)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    until = time.monotonic() + 10
    while (status := process_status(child)) is not None and status.state != "Z":
        assert time.monotonic() < until, "it was left behind"
