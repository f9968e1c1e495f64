"""Searches on a real Ray cluster of two nodes on this machine, disturbed in every way.

Skipped where Ray is not installed (pip install 'nasdistill[ray]').
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_study import RECIPE, prepare

from nasdistill.common.errors import UserError
from nasdistill.common.processes import process_status
from nasdistill.recipe import load_recipe
from nasdistill.results import load_study
from nasdistill.study import Study
from nasdistill.workers.cluster import (
    Node,
    Placement,
    check_nodes,
    connected,
    living_nodes,
    node_answers,
    place_workers,
    problem_of,
    recipe_file,
)

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
pytest.importorskip("ray", reason="Ray is not installed: pip install 'nasdistill[ray]'")

PATIENCE = 55.0
"""Seconds after which a test gives up what it waits for: Ray must never keep it for ever."""


def recipe(trials: int, images: int, final_epochs: int, workers: int = 2) -> str:
    """The small study's, with trials of so many images at the first of two rungs, and one final."""
    return (
        RECIPE.replace("trials: 7", f"trials: {trials}")
        .replace("top_k: 2", "top_k: 1")
        .replace(
            "{first: 200 images, eta: 2, count: 3}", f"{{first: {images} images, eta: 2, count: 2}}"
        )
        .replace("4 epochs", f"{final_epochs} epochs")
        .replace(
            "workers: 1", f"workers: {workers}\nengine: ray\nstopping: false\nexperience: false"
        )
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one core, and a second node with one."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # nodes have the package that is tested
    running = Cluster(
        initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False)
    )
    try:
        running.add_node(num_cpus=1)
        yield running
    finally:
        running.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Driver:
    """The command, in a process of its own.

    Args:
        folder: Where it works.
        address: Of the cluster.
        recipe: Of the study.
    """

    def __init__(self, folder: Path, address: str, recipe: str) -> None:
        (folder / "recipe.yaml").write_text(recipe)
        self._folder, self._said = folder, folder / "said.txt"
        command = ["search", "--recipe", "recipe.yaml", "--ray-address", address]
        with self._said.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nasdistill", *command],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        until = time.monotonic() + PATIENCE
        while self.said.count(text) < times:
            assert self.process.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.05)

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def workers(self) -> list[int]:
        """Processes of workers that are at this study."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_worker(entry)
        ]

    def _is_worker(self, entry: Path) -> bool:
        try:
            command = (entry / "cmdline").read_bytes()
            here = (entry / "cwd").resolve() == self._folder.resolve()
        except OSError:
            return False
        return here and b"nasdistill.workers.worker" in command

    def wait_for_no_workers(self) -> None:
        until = time.monotonic() + PATIENCE
        while left := self.workers():
            assert time.monotonic() < until, [process_status(pid) for pid in left]
            time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield prepare(tmp_path)
    for entry in Path("/proc").iterdir():  # a test that failed leaves nothing at work
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").resolve() == tmp_path.resolve():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                pass


def assert_whole(folder: Path, trials: int) -> None:
    """Asserts that a study is complete: each trial once, none lost, none failed."""
    record = load_study("small", folder / "studies")
    assert record.state == "complete" and len(record.finals) == 1
    tried = [c for c in record.candidates if c.state != "rejected"]
    assert Counter(c.state for c in tried) == {"complete": trials}
    assert len({c.fingerprint for c in tried}) == trials
    assert all(len(c.rungs) == 2 for c in tried)


def test_a_worker_is_killed_and_a_node_removed_and_another_comes(
    cluster: Any, folder: Path
) -> None:
    driver = Driver(folder, cluster.address, recipe(4, 25000, 100))
    driver.wait_for("2 of 2 workers at work")
    driver.wait_for("rung 0: ")
    os.kill(driver.workers()[0], signal.SIGKILL)
    driver.wait_for("ended by signal 9; it is started again, and its trial goes on")
    driver.wait_for("2 of 2 workers at work", times=2)
    (second,) = cluster.worker_nodes
    cluster.remove_node(second, allow_graceful=False)
    driver.wait_for("1 of 2 workers at work")
    cluster.add_node(num_cpus=1)
    driver.wait_for("2 of 2 workers at work", times=3)
    assert driver.end() == 0, driver.said
    assert_whole(folder, 4)
    assert "Traceback" not in driver.said
    driver.wait_for_no_workers()


def test_a_driver_that_is_killed_leaves_no_worker_and_is_started_again(
    cluster: Any, folder: Path
) -> None:
    driver = Driver(folder, cluster.address, recipe(2, 12000, 48))
    driver.wait_for("rung 0: ")
    driver.process.kill()
    driver.process.wait()
    driver.wait_for_no_workers()
    again = Driver(folder, cluster.address, recipe(2, 12000, 48))
    assert again.end() == 0, again.said
    assert_whole(folder, 2)


def test_whoever_makes_the_finals_is_killed_and_another_goes_on(cluster: Any, folder: Path) -> None:
    driver = Driver(folder, cluster.address, recipe(1, 2000, 60, workers=1))
    driver.wait_for("finals to distil in full: 1")
    (worker,) = driver.workers()
    os.kill(worker, signal.SIGKILL)
    assert driver.end() == 0, driver.said
    assert "ended by signal 9" in driver.said
    record = load_study("small", folder / "studies")
    assert record.state == "complete" and len(record.finals) == 1


def test_a_driver_that_is_told_to_end_ends_at_once_and_in_order(cluster: Any, folder: Path) -> None:
    driver = Driver(folder, cluster.address, recipe(4, 25000, 100))
    driver.wait_for("rung 0: ")
    start = time.monotonic()
    driver.process.terminate()
    assert driver.end() == 128 + signal.SIGTERM, driver.said
    assert time.monotonic() - start < 15
    assert driver.said.rstrip().endswith("Saved. Go on with: nasdistill resume small")
    driver.wait_for_no_workers()
    running = [
        c for c in load_study("small", folder / "studies").candidates if c.state == "running"
    ]
    assert running, "they are there to be taken up"


def refused(address: str) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as caught, connected(address):
        pass
    assert time.monotonic() - start < PATIENCE and "\n" not in str(caught.value)
    return str(caught.value)


def test_an_address_where_no_cluster_is_is_one_message() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert "no Ray cluster answers there" in refused(f"127.0.0.1:{port}")
        listener.listen()
        assert "something else listens" in refused(f"127.0.0.1:{port}")
    assert "ray:// addresses are not supported" in refused("ray://127.0.0.1:10001")
    assert "HOST:PORT" in refused("somewhere")


def test_ray_that_is_not_installed_is_named_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'nasdistill[ray]'" in refused("auto")


CPU, CARD = Node("1", "a", 4.0, 0.0), Node("2", "b", 8.0, 2.0)


@pytest.mark.parametrize(
    ("nodes", "options", "placement"),
    [
        ([CPU], {}, Placement(1, 0.0, 4)),
        ([CPU], {"cpus_per_worker": 3}, Placement(3, 0.0, 1)),
        ([CPU, CARD], {}, Placement(1, 1.0, 2)),
        ([CPU, CARD], {"device": "cpu"}, Placement(1, 0.0, 12)),
        ([CARD], {"gpu_share": 0.3}, Placement(1, 0.3, 6)),
        ([CARD], {"gpu_share": 0.25, "cpus_per_worker": 2}, Placement(2, 0.25, 4)),
        ([CPU], {"workers": 40}, Placement(1, 0.0, 40)),
        ([CPU], {"deterministic": True}, Placement(1, 0.0, 1)),
    ],
)
def test_placement(nodes: list[Node], options: dict[str, Any], placement: Placement) -> None:
    assert (
        place_workers(load_recipe(None, {"engine": "ray", **options}), nodes, None, 24) == placement
    )


def test_a_share_that_was_found_to_be_faster_is_taken() -> None:
    assert place_workers(load_recipe(None, {}), [CARD], 4, 24) == Placement(1, 0.25, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_share": 0.5}, "--gpu-share 0.5: no node of the cluster has a GPU (a)"),
        ({"device": "cuda"}, "--device cuda: no node of the cluster has a GPU (a)"),
        ({"device": "cuda:1"}, "Ray chooses a worker's card; give cuda"),
        ({"device": "cpu", "gpu_share": 0.5}, "--device cpu uses none"),
        ({"cpus_per_worker": 5}, "--cpus-per-worker 5: no node of the cluster has that (a: 4 cor"),
    ],
)
def test_what_a_cluster_does_not_have_is_one_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        place_workers(load_recipe(None, {"engine": "ray", **options}), [CPU], None, 24)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_node_with_other_versions_is_named(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    about = tmp_path / "other/torch-1.2.3.dist-info/METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    paths = os.pathsep.join([str(about.parents[1]), *sys.path])
    monkeypatch.chdir(folder)
    study = Study.open(load_recipe("recipe.yaml", {}), Path("studies"), "")
    other = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": paths})
    try:
        with connected(cluster.address):
            nodes = living_nodes()
            assert len(nodes) == 3 and len({node.name for node in nodes}) == 3
            (odd,) = [node for node in nodes if node.number == other.node_id]
            check_nodes(study, [node for node in nodes if node is not odd])
            with pytest.raises(UserError) as caught:
                check_nodes(study, nodes)
            assert str(caught.value).startswith(f"the node {odd.name} has torch 1.2.3, this ")
    finally:
        cluster.remove_node(other)


def test_a_node_with_other_files_of_the_same_version_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    study = Study.open(load_recipe("recipe.yaml", {}), Path("studies"), "")
    answers = node_answers()(str(recipe_file(study)))
    assert problem_of(answers, study) is None
    changed = {**answers, "nasdistill": answers["nasdistill"].replace("files ", "files 0")}
    assert "has nasdistill 0.1.0 (files 0" in str(problem_of(changed, study))
    assert "has nasdistill not installed" in str(problem_of({**answers, "nasdistill": None}, study))
    elsewhere = problem_of({**answers, "recipe": None}, study)
    assert f"does not see the study's folder {folder}/studies/small" in str(elsewhere)
