"""Finals and architectures: counted, timed, loaded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdistill.api.options import MOST_BATCH, MOST_THREADS, check_number, check_shape
from nasdistill.api.paths import final_folder, recipe_of
from nasdistill.common.errors import UserError
from nasdistill.common.files import STUDIES
from nasdistill.results import load_study

if TYPE_CHECKING:
    from nasdistill.models.pruned_space import MadeSpace
    from nasdistill.space import SearchSpace


def profile(
    target: str,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    data_input: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    import_file: str | None = None,
) -> dict[str, Any]:
    """Counts and times a final, an architecture, or any file of a runtime known here.

    Args:
        target: A final's folder, `STUDY/RANK`, an architecture.json, or a file: ONNX, OpenVINO's
            `.xml`, ExecuTorch's `.pte`, LiteRT's `.tflite`.
        engine: See `models.latency.measure_latencies`; a file is run by its own.
        threads: Threads of the engine.
        batch: Images at once.
        data_input: Channels, height and width, for an architecture.json.
        classes: Number of classes, for an architecture.json.
        import_file: Python file with the family; `STUDY/RANK` brings its own.

    Returns:
        `params`, `macs`, `bytes` and `latency` (median and quartiles in milliseconds); of a file
        `inputs`, its inputs' shapes, instead of `macs`, and `params` may be None.

    Raises:
        UserError: If there is no such thing, its family is not known, the engine cannot run it, a
            number is out of its range, or memory does not hold such a batch.
    """
    check_number("threads", threads, 1, MOST_THREADS)
    check_number("batch", batch, 1, MOST_BATCH)
    check_shape(max(data_input[1:]), data_input[0], classes)
    from nasdistill.common.locks import quiet
    from nasdistill.common.machine import free_bytes
    from nasdistill.common.types import Input
    from nasdistill.models import Classifier, artifact, build
    from nasdistill.models.counts import bytes_of_widest_layer, count_module
    from nasdistill.models.latency import measure_latencies
    from nasdistill.models.limits import check_size
    from nasdistill.space import Architecture
    from nasdistill.trials.plugins import load_plugins

    load_plugins(import_file)
    path = Path(target)
    if path.suffix == ".onnx" and path.is_file():
        if engine != "onnxruntime":
            raise UserError(
                f"--engine {engine}: an ONNX file is run by onnxruntime; allowed is that"
            )
        from nasdistill.deployment.onnx_file import profile_onnx

        return profile_onnx(path, batch, threads)
    if path.suffix in (".xml", ".pte", ".tflite") and path.is_file():
        from nasdistill.deployment.device_file import profile_device_file

        return profile_device_file(path, batch, threads)
    if not path.exists() and target.count("/") == 1:
        path = _final(*target.split("/"))
    if path.is_dir():
        module, shape = artifact.load(path), artifact.input_of(path)
    elif path.suffix == ".json" and path.is_file():
        shape, architecture = Input(*data_input), Architecture.read(path)
        check_size(architecture, shape, classes, str(path))
        net = build(architecture, shape, classes)
        module = Classifier(net, (0.0,) * shape.channels, (1.0,) * shape.channels).eval()
    else:
        raise UserError(
            f"profile: {target!r} is neither a final, an architecture.json nor a file "
            "(.onnx, .xml, .pte, .tflite)"
        )
    counts = count_module(module, shape)
    needed, free = batch * bytes_of_widest_layer(module, shape), free_bytes()
    if needed > free:
        raise UserError(
            f"--batch: found {batch}; takes at least {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} "
            "GB of memory are free"
        )
    lock = path.parent.parent / "latency.lock"
    with quiet(lock) if lock.exists() else nullcontext():
        latency = measure_latencies(
            {"model": module}, {"model": shape}, engine=engine, batch=batch, threads=threads
        )["model"]
    return {**asdict(counts), "latency": asdict(latency)}


def _final(study: str, rank: str) -> Path:
    """A final's folder; its family may be one of the study's own file."""
    from nasdistill.trials.plugins import load_plugins

    folder = final_folder(study, rank)
    load_plugins(recipe_of(load_study(study, STUDIES)).import_file)
    return folder


def load(folder: str | Path) -> Any:
    """Loads a final: a torch module in eval mode that takes images and gives logits.

    Args:
        folder: The final's folder, e.g. `studies/mobile/finals/1`.

    Returns:
        A module; input float32 `[B, C, H, W]` in [0, 1] or uint8, output logits `[B, classes]`.

    Raises:
        UserError: If the folder holds no final, or one of a family that is not known here.
    """
    from nasdistill.models import artifact

    return artifact.load(Path(folder))


def cut_space(
    space: SearchSpace,
    teacher: str | None,
    *,
    size: int,
    channels: int,
    classes: int,
    import_file: str | None = None,
) -> MadeSpace:
    """Makes the tree of a space whose students are cut from a net.

    Args:
        space: The space, as its YAML says.
        teacher: The net, as a search's teacher is named; None where the YAML names a base.
        size: Side of the input, in pixels.
        channels: Of the input.
        classes: Number of classes.
        import_file: Python file with the teacher.

    Returns:
        The space with its tree, what it cuts, and what is left whole.

    Raises:
        UserError: If there is no such net, or it cannot be cut.
    """
    check_shape(size, channels, classes)
    assert space.template is not None
    if space.template.models:
        return _cut_of_named(space, teacher, size=size, channels=channels, classes=classes)
    spec = space.template.base or teacher
    if spec is None:
        raise UserError(
            f"space {space.name!r} is made from a net: name one with --teacher, such as --teacher "
            "timm:tf_efficientnet_lite0, or as `base:` in its YAML"
        )
    from nasdistill.common.types import Input
    from nasdistill.models.pruned_space import pruned_space
    from nasdistill.teachers.bases import base_architecture
    from nasdistill.trials.plugins import load_plugins

    plugins = load_plugins(import_file)
    base = base_architecture(spec, studies_root=STUDIES, imported=plugins.teachers)
    return pruned_space(space, base, Input(channels, size, size), classes)


def _cut_of_named(
    space: SearchSpace, teacher: str | None, *, size: int, channels: int, classes: int
) -> MadeSpace:
    """See `cut_space`; of a space of named nets."""
    if teacher is not None:
        raise UserError(f"--teacher {teacher}: the space {space.name!r} names its own nets")
    from nasdistill.common.types import Input
    from nasdistill.models.pruned_space import pretrained_space

    return pretrained_space(space, Input(channels, size, size), classes, lambda model: None)


def spread(
    space: SearchSpace, *, size: int, channels: int, classes: int, samples: int = 200
) -> dict[str, Any]:
    """Spread of parameters and MACs over seeded samples of a space.

    Args:
        space: The space; of one that has a variant for large inputs, that is meant there.
        size: Side of the input, in pixels.
        channels: Of the input.
        classes: Number of classes.
        samples: How many architectures to draw.

    Returns:
        `samples` (those that can take such images), and for `params` and `macs` the minimum,
        quartiles and maximum.

    Raises:
        UserError: If a number is out of its range, or no sample can take such images.
    """
    check_shape(size, channels, classes)
    import random
    import statistics

    from nasdistill.common.types import Input
    from nasdistill.models.counts import count_architecture

    rng, space = random.Random(0), space.for_pictures(size)
    shape = Input(channels, size, size)
    drawn = [space.random(rng) for _ in range(samples)]
    counted: dict[str, Any] = {}  # a small space is drawn from again and again
    reason = ""
    for architecture in {each.fingerprint: each for each in drawn}.values():
        try:
            counted[architecture.fingerprint] = count_architecture(architecture, shape, classes)
        except UserError as error:
            reason = str(error)
    counts = [counted[each.fingerprint] for each in drawn if each.fingerprint in counted]
    if len(counts) < 2:
        raise UserError(f"space {space.name!r}: {reason}. Give a larger --size")
    spread: dict[str, Any] = {"samples": len(counts)}
    for key in ("params", "macs"):
        values = sorted(getattr(c, key) for c in counts)
        quartiles = statistics.quantiles(values, n=4)
        names = ("min", "q1", "median", "q3", "max")
        spread[key] = dict(zip(names, [values[0], *quartiles, values[-1]], strict=True))
    return spread


def pretrained_weights(space: SearchSpace) -> dict[str, dict[str, str | None]]:
    """The weights of a space whose students have some of their own; nothing is fetched.

    Args:
        space: The space.

    Returns:
        By model: `file`, where they lie on this machine, and `address`, where they are fetched from
        if they do not (None for a file that the space names). Empty for other spaces.

    Raises:
        UserError: If a library has no such model, or no weights for it.
    """
    weights: dict[str, dict[str, str | None]] = {}
    for model in space.models:
        from nasdistill.teachers.at_hand import own_weights

        if model in space.weights:
            file = space.weights[model]
            weights[model] = {"file": str(file) if file.is_file() else None, "address": None}
        else:
            address, cached = own_weights(model)
            weights[model] = {"file": None if cached is None else str(cached), "address": address}
    return weights
