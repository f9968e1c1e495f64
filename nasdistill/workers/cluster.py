"""A Ray cluster: joined or started, what its nodes have, and whether they can work at a study."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nasdistill.common.errors import UserError
from nasdistill.common.files import STUDIES
from nasdistill.recipe import Recipe
from nasdistill.study import Study

REACHING_SECONDS = 5.0
"""How long the head of a cluster may take to accept a connection."""
HEALTH_SECONDS = 20.0
"""How long it may take to say that it is one, the start of Ray's own command included."""
ANSWERING_SECONDS = 60.0
"""How long one of its nodes may take to answer a question."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Ray's variables: nothing is sent to its makers, and it speaks of what is wrong alone."""

Answers = dict[str, Any]


class Node(NamedTuple):
    """A node that is alive: its number in Ray, a name for people, and what it has."""

    number: str
    name: str
    cpus: float
    gpus: float


class Placement(NamedTuple):
    """What each worker takes, and how many there are to be."""

    cpus: int
    gpus: float
    workers: int


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Joins a cluster, or starts one on this machine that ends with the body.

    Args:
        address: `auto`, `HOST:PORT`, or `local` for a new one; None for RAY_ADDRESS, else one that
            runs here, else a new one.

    Raises:
        UserError: If Ray is not installed, there is no cluster, or it is of another version.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'nasdistill[ray]'") from None
    if ray.is_initialized():  # by whoever calls this from Python
        yield
        return
    _check_address(address or os.environ.get("RAY_ADDRESS"))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"{_named(address)}: {_reason(error)}") from error
    finally:
        if handler is not None and signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)  # the command's own, which Ray replaces
    try:
        yield
    finally:
        ray.shutdown()


def _named(address: str | None) -> str:
    return "--engine ray" if address is None else f"--ray-address {address}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ConnectionError):
        return (
            "no Ray cluster runs on this machine. Start one (ray start --head), give HOST:PORT of "
            "its head, or leave the option out: then one is started for the command"
        )
    if "Version mismatch" in text:
        return f"the cluster runs other versions than this process; install the same ones: {text}"
    return f"the cluster cannot be used: {text[:300]}"


def _check_address(address: str | None) -> None:
    """Looks whether a cluster is at an address: Ray itself would try for minutes, then exit.

    Raises:
        UserError: If there is none.
    """
    if address is None or address in ("auto", "local"):
        return
    place = re.fullmatch(r"(\[[^\]]+\]|[^:/@\s]+):(\d{1,5})", address)
    if place is None:
        raise UserError(
            f"--ray-address {address}: allowed are auto, local and HOST:PORT of the head, "
            "such as 10.0.0.5:6379 (6379 is Ray's default). Start the command on a machine of the "
            "cluster: ray:// addresses are not supported"
        )
    nobody = f"--ray-address {address}: no Ray cluster answers there"
    hint = "See that `ray start --head` runs on that host, and that host and port are its own"
    try:
        socket.create_connection((place[1].strip("[]"), int(place[2])), REACHING_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{nobody} ({error}). {hint}") from None
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        healthy = subprocess.run(ask, capture_output=True, timeout=HEALTH_SECONDS).returncode
    except subprocess.TimeoutExpired:
        healthy = 1
    if healthy != 0:
        raise UserError(f"{nobody} (something else listens on that port). {hint}")


def living_nodes() -> list[Node]:
    """The nodes that are alive, by name; a host that has several numbers them by Ray's numbers."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = Counter(node["NodeManagerHostname"] for node in alive)
    nodes = []
    for node in alive:
        host, number, has = node["NodeManagerHostname"], node["NodeID"], node["Resources"]
        name = host if hosts[host] == 1 else f"{host}/{number[:4]}"
        nodes.append(Node(number, name, has.get("CPU", 0.0), has.get("GPU", 0.0)))
    return sorted(nodes, key=lambda node: node.name)


def place_workers(
    recipe: Recipe, nodes: Sequence[Node], students_at_once: int | None, useful: int
) -> Placement:
    """Decides what each worker takes of a cluster, and how many there are.

    Args:
        recipe: The study's.
        nodes: Those of the cluster.
        students_at_once: Found to be faster on the study's card; None where that is not known.
        useful: How many are of use at most, unless more are asked for.

    Raises:
        UserError: If no node has what a worker needs.
    """
    gpus = _gpu_share(recipe, nodes, students_at_once)
    rooms = [min(n.cpus // recipe.cpus_per_worker, _times(n.gpus, gpus)) for n in nodes]
    if sum(rooms) < 1:
        each = "; ".join(f"{n.name}: {n.cpus:g} cores, {n.gpus:g} GPUs" for n in nodes)
        needs = f"--cpus-per-worker {recipe.cpus_per_worker}"
        needs += f" and --gpu-share {gpus:g}" if gpus else ""
        raise UserError(f"{needs}: no node of the cluster has that ({each})")
    default = 1 if recipe.deterministic else int(min(sum(rooms), useful, 64))
    return Placement(recipe.cpus_per_worker, gpus, recipe.workers or default)


def _times(has: float, share: float) -> float:
    """How many workers a node's GPUs hold; a share is of one GPU, never of two."""
    return math.inf if share == 0 else has * math.floor(1 / share + 1e-9)


def _gpu_share(recipe: Recipe, nodes: Sequence[Node], students_at_once: int | None) -> float:
    has_gpus, share = any(node.gpus for node in nodes), recipe.gpu_share
    if ":" in recipe.device:
        raise UserError(
            f"--device {recipe.device}: on a cluster Ray chooses a worker's card; give cuda"
        )
    if recipe.device == "cpu" and share is not None:
        raise UserError(f"--gpu-share {share:g}: --device cpu uses none; leave one of them out")
    if not has_gpus and (share is not None or recipe.device == "cuda"):
        option = f"--gpu-share {share:g}" if share is not None else "--device cuda"
        raise UserError(
            f"{option}: no node of the cluster has a GPU ({', '.join(n.name for n in nodes)}). "
            "Leave the option out to train on CPUs, or join a node with one: `ray start "
            "--address HEAD:PORT --num-gpus 1` there, where Ray does not find it by itself"
        )
    if recipe.device == "cpu" or not has_gpus:
        return 0.0
    return share or 1 / (students_at_once or 1)


def check_nodes(study: Study, nodes: Sequence[Node]) -> None:
    """Asks nodes whether they can work at a study.

    Args:
        study: Its folder lies below the current one.
        nodes: Those that may hold workers.

    Raises:
        UserError: If one of them has other versions, or does not see the study's folder although
            its recipe names no URL that files are shared by.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=1)(node_answers())
    answers = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node.number, soft=False)
        answers[node] = ask.options(scheduling_strategy=strategy).remote(str(recipe_file(study)))
    problems = []
    for node, answer in answers.items():
        try:
            problem = problem_of(ray.get(answer, timeout=ANSWERING_SECONDS), study)
        except ray.exceptions.RayError as error:
            problem = f"does not answer ({type(error).__name__})"
        if problem is not None:
            problems.append(f"the node {node.name} {problem}")
    if problems:
        raise UserError("\n".join(problems))


def recipe_file(study: Study) -> Path:
    """The absolute path of a study's recipe.yaml, by which a node's folder is known."""
    return (Path.cwd() / STUDIES / study.folder.name / "recipe.yaml").absolute()


def problem_of(answers: Answers, study: Study) -> str | None:
    """Why a node that has given these answers cannot work at a study; None if it can."""
    file = recipe_file(study)
    ours = node_answers()(str(file))
    for name in ("python", "torch", "nasdistill"):
        if answers[name] != ours[name]:
            theirs = answers[name] or "not installed"
            return (
                f"has {name} {theirs}, this process {ours[name]}: all nodes need the same versions"
            )
    if study.recipe.files is None and answers["recipe"] != ours["recipe"]:
        return (
            f"does not see the study's folder {file.parent}: work in a folder on a disk that all "
            "nodes share, mounted at the same path, or give --files URL"
        )
    return None


def node_answers() -> Callable[[str], Answers]:
    """The function that a node is asked by; it needs nothing of this package there.

    Its answers are the versions of Python (the minor one), torch and nasdistill, which has a digest
    of its files beside its number, and the text of a study's recipe.yaml; None for what is missing.
    """

    def answers(recipe: str) -> Answers:
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import platform

        def version(name: str) -> str | None:
            try:
                return importlib.metadata.version(name) if importlib.util.find_spec(name) else None
            except importlib.metadata.PackageNotFoundError:
                return None

        def digest(name: str) -> str:
            spec, text = importlib.util.find_spec(name), hashlib.blake2b(digest_size=4)
            for place in (spec and spec.submodule_search_locations) or ():
                for path in sorted(pathlib.Path(place).rglob("*.py")):
                    text.update(path.read_bytes())
            return text.hexdigest()

        file, number = pathlib.Path(recipe), version("nasdistill")
        return {
            "python": ".".join(platform.python_version_tuple()[:2]),
            "torch": version("torch"),
            "nasdistill": number and f"{number} (files {digest('nasdistill')})",
            "recipe": file.read_text() if file.is_file() else None,
        }

    return answers
