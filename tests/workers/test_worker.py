"""A worker's process: it ends with its input, and tells of what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nasdistill.recipe import load_recipe


def started(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nasdistill.workers.worker"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def first_message(**options: object) -> str:
    recipe = load_recipe("recipe.yaml", options).model_dump(mode="json", by_alias=True)
    return json.dumps({"recipe": recipe, "name": "small", "path": []}) + "\n"


def test_it_ends_with_its_input(here: Path) -> None:
    process = started(here)
    _, errors = process.communicate("", timeout=60)
    assert process.returncode == 1 and not errors


def test_it_leaves_when_told_to(here: Path) -> None:
    process = started(here)
    leave = json.dumps({"do": "leave", "processes": 1}) + "\n"
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(first_message() + leave)
    process.stdin.flush()
    assert process.wait(60) == 0 and process.stdout.read() == ""


def test_it_opens_the_study_and_answers(here: Path) -> None:
    own = Path("own.py")
    own.write_text("print('a noise')\n" + own.read_text())
    process = started(here)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(first_message() + json.dumps({"do": "open", "processes": 1}) + "\n")
    process.stdin.flush()
    lines = [process.stdout.readline()]
    while "answer" not in lines[-1]:
        assert process.poll() is None
        lines.append(process.stdout.readline())
    process.kill()
    messages = [json.loads(line) for line in lines]
    assert {"did": "open"} in messages and messages[-1] == {"answer": 0.0}
    assert not any(message.get("stage") == "teacher" for message in messages)


def test_an_error_of_the_users_is_one_message(here: Path) -> None:
    message = first_message()
    Path("own.py").write_text("1 / 0\n")
    process = started(here)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(message)
    process.stdin.flush()  # its end would be that of the command
    assert process.wait(60) == 0
    (message,) = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert message["error"].startswith("--import own.py: ZeroDivisionError")
