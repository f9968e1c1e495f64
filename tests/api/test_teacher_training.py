"""`nasdistill teacher train`: from scratch, and from pretrained weights of three libraries."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import write_blobs
from torch import nn

from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.data import load_data
from nasdistill.models import artifact
from nasdistill.teachers import load_teacher
from nasdistill.teachers.fine_tunable import load_fine_tunable
from nasdistill.training import fine_tuning, predict
from nasdistill.training import teacher as teaching

Train = Callable[..., dict[str, Any]]
Start = tuple[str, Path | None]
"""What `--from` and `--weights` say."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"npz:{write_blobs(tmp_path / 'blobs.npz', train=120, test=30)}"


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def train(data: str, told: list[Event], monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a teacher; two epochs teach random weights nothing, and that is not refused here."""
    monkeypatch.setattr(teaching, "accuracy_with_interval", lambda *_: (0.9, 0.8, 1.0))

    def train(**options: Any) -> dict[str, Any]:
        given = {"out": Path("made"), "device": "cpu", "precision": "fp32", **options}
        return api.teacher_train(**{"data": data, "on_event": told.append, **given})

    return train


def start_of(library: str, folder: Path) -> Start:
    """A tiny classifier of five classes, its random weights saved to a file."""
    torch.manual_seed(0)
    if library == "timm":
        net = pytest.importorskip("timm").create_model("test_convnext", num_classes=5)
        torch.save(net.state_dict(), folder / "tiny.pt")
        return "timm:test_convnext,size=32", folder / "tiny.pt"
    if library == "torchvision":
        net = importlib.import_module("torchvision.models").squeezenet1_1(num_classes=5)
        torch.save(net.state_dict(), folder / "tiny.pt")
        return "torchvision:squeezenet1_1,size=32", folder / "tiny.pt"
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=24,
        patch_size=8,
        num_labels=5,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder / "vit")
    transformers.ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder / "vit")
    return f"transformers:{folder / 'vit'}", None


def body(module: nn.Module, heads: list[nn.Module]) -> dict[str, torch.Tensor]:
    """All tensors of a module but those of its heads."""
    of_heads = {id(tensor) for head in heads for tensor in head.state_dict(keep_vars=True).values()}
    tensors = module.state_dict(keep_vars=True).items()
    return {k: t.detach().clone() for k, t in tensors if id(t) not in of_heads}


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
@pytest.mark.parametrize("tune", ["head", "all"])
def test_a_pretrained_model_is_fine_tuned_to_a_folder_that_teaches(
    library: str, tune: str, train: Train, data: str, tmp_path: Path, told: list[Event]
) -> None:
    source, weights = start_of(library, tmp_path)
    dataset = load_data(data, device=torch.device("cpu"))
    path = None if weights is None else str(weights)
    start = load_fine_tunable(source, path, dataset)
    before = body(start.module, start.heads())
    card = train(source=source, weights=path, tune=tune, epochs=2)
    teacher = load_teacher("folder:made", dataset, device=torch.device("cpu"))
    assert teacher.weights_hash == card["weights_hash"] and teacher.classes == 3
    assert teacher.code.startswith(f"{library} "), "its logits depend on the library's version"
    loaded = artifact.load("made")
    after = loaded.state_dict()
    equal = [torch.equal(after[name], tensor) for name, tensor in before.items()]
    assert all(equal) if tune == "head" else not all(equal)
    stages = [("head", 2)] if tune == "head" else [("head", 3), ("all", 2)]
    rows = [(row["tuned"], row["epoch"]) for row in card["accuracy_by_epoch"]]
    assert rows == [(part, epoch + 1) for part, count in stages for epoch in range(count)]
    notes = [event.text for event in told if event.kind == "note"]
    assert "a new head for 3 classes" in notes[0] and "fine-tuning takes" in notes[1]
    assert len(notes) == 2 + len(rows) and "epoch 1 of" in notes[2] and "accuracy 0." in notes[2]
    assert {path.name for path in tmp_path.iterdir()} >= {"made"}
    assert not list(tmp_path.glob("made.*")), "checkpoints are left"


def test_a_fine_tuned_model_takes_images_as_large_as_is_asked_for(
    data: str, tmp_path: Path
) -> None:
    source, weights = start_of("timm", tmp_path)
    name, dataset = source.partition(",")[0], load_data(data, device=torch.device("cpu"))

    def side(text: str, size: int | None) -> int:
        start = load_fine_tunable(text, str(weights), dataset, size)
        return start.spec.preparation.input.width

    assert side(name, 24) == 24
    assert side(source, 24) == 32, "what is named goes before"
    assert side(name, None) == 160, "that of its weights"


class Killed(Exception):  # noqa: N818 - says what happened
    pass


def test_a_killed_fine_tuning_goes_on_to_the_same_weights(train: Train, tmp_path: Path) -> None:
    source, weights = start_of("timm", tmp_path)
    options = {"source": source, "weights": str(weights), "epochs": 2}
    expected = train(**options, out=Path("whole"))
    epochs = [f"head alone, epoch {epoch}" for epoch in (1, 2, 3)]
    for at in (*epochs, "all layers, epoch 1", "all layers, epoch 2"):

        def die(event: Event, at: str = at) -> None:
            if event.text.startswith(at):
                raise Killed

        with pytest.raises(Killed):
            train(**options, on_event=die)
        assert not Path("made").exists()
    card = train(**options)
    assert card["weights_hash"] == expected["weights_hash"]
    assert card["accuracy_by_epoch"] == expected["accuracy_by_epoch"]


def test_a_learned_head_is_kept_where_it_tells_the_same_number_of_classes(
    train: Train, data: str, tmp_path: Path
) -> None:
    net = pytest.importorskip("timm").create_model("test_convnext", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "three.pt")
    dataset = load_data(data, device=torch.device("cpu"))
    start = load_fine_tunable("timm:test_convnext,size=32", str(tmp_path / "three.pt"), dataset)
    assert start.head == "its head is kept"
    [head] = start.heads()
    assert isinstance(head, nn.Linear) and torch.equal(head.weight, net.head.fc.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "head"}, "--tune head: goes with --from alone, which is not given"),
        ({"weights": "w.pt"}, "--weights w.pt: goes with --from alone, which is not given"),
        ({"source": "timm:x", "architecture": Path("a.json")}, "--architecture a.json: found with"),
        ({"source": "timm:x", "tune": "body"}, "--tune 'body': allowed are head, all"),
        ({"source": "shipped"}, "--from shipped: allowed are torchvision:NAME, timm:NAME"),
        ({"source": "timm:"}, "--from timm:: allowed are torchvision:NAME"),
        ({"source": "timm:resnet1"}, "timm has no model 'resnet1'; did you mean"),
        ({"source": "timm:resnet18,size=3"}, "--from timm:resnet18,size=3: size must be at least"),
        ({"source": "timm:resnet18", "weights": "no.pt"}, "no.pt: there is no such file"),
        ({"epochs": 0}, "--epochs: found 0; must be from 1 to"),
        ({"learning_rate": -1.0}, "--learning-rate: found -1.0; must be from"),
        ({"sampling": "even"}, "--sampling: found 'even'; allowed: uniform, balanced"),
        ({"class_weights": "even"}, "--class-weights: found 'even'; write balanced, or a weight"),
        ({"class_weights": "0=0"}, "--class-weights: found '0=0'; write balanced, or a weight"),
        (
            {"class_weights": "balanced", "sampling": "balanced"},
            "--class-weights: balanced beside sampling: balanced makes up for uneven classes twice",
        ),
        ({"class_weights": "two=3"}, "class_weights: 'two' is no class of"),
        ({"class_weights": "two=3", "source": "timm:x"}, "class_weights: 'two' is no class of"),
        ({"precision": "fp8"}, "--precision 'fp8': allowed are auto, fp32, bf16, bf16-mixed"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(
    options: dict[str, Any], message: str, train: Train
) -> None:
    logging.disable(logging.CRITICAL)
    with pytest.raises(UserError) as caught:
        train(**options)
    logging.disable(logging.NOTSET)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert {path.name for path in Path().iterdir()} == {"blobs.npz"}


def write_perceptron() -> Path:
    layers = {"type": "one", "widths": [16]}
    values = {"activation": "relu", "dropout": 0.0, "layers": layers}
    Path("a.json").write_text(json.dumps({"family": "mlp", "values": values}))
    return Path("a.json")


def test_from_scratch_with_a_number_of_epochs(train: Train) -> None:
    card = train(architecture=write_perceptron(), epochs=40, half=True)
    assert card["epochs"] == 40 and card["stored"] == "fp16" and "scores" not in card
    assert card["learning_rate"] == 0.003
    assert fine_tuning.RATES == {"head": 0.003, "all": 0.0005}


def test_what_learned_nothing_is_not_written_and_told_to_learn_longer(data: str) -> None:
    """Its classes are in the data's order, and it was trained on these data."""
    message = r"barely better than chance .* It was not written. Train for longer \(--epochs\)"
    with pytest.raises(UserError, match=message) as caught:
        slow = {"architecture": write_perceptron(), "epochs": 1, "learning_rate": 1e-8}
        api.teacher_train(data=data, out=Path("made"), device="cpu", precision="fp32", **slow)
    assert "teacher train" not in str(caught.value) and not Path("made").exists()


def recalls(folder: str, data: str) -> list[float]:
    """Share of each class's test images that a teacher puts in it."""
    dataset = load_data(data, device=torch.device("cpu"))
    teacher = load_teacher(f"folder:{folder}", dataset, device=torch.device("cpu"))
    logits, labels = predict(teacher.module, dataset.test, teacher.input.size)
    answers = logits.argmax(dim=1)
    return [float((answers == k)[labels == k].double().mean()) for k in range(3)]


def order_of(kind: str, folder: Path) -> dict[str, Any]:
    """What is trained: a perceptron from scratch, or the head of a pretrained model."""
    if kind == "from scratch":
        return {"architecture": write_perceptron(), "epochs": 12, "learning_rate": 0.02}
    source, weights = start_of("timm", folder)
    head = {"source": source, "weights": str(weights), "tune": "head"}
    return {**head, "epochs": 6, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("kind", "balance", "weights"),
    [
        ("from scratch", {"class_weights": "1=5,2=16"}, {"1": 5.0, "2": 16.0}),
        ("from scratch", {"sampling": "balanced"}, None),
        ("fine-tuned", {"class_weights": "balanced"}, "balanced"),
    ],
)
def test_of_uneven_classes_the_rare_one_is_recalled_more_often(
    kind: str, balance: dict[str, str], weights: Any, train: Train, tmp_path: Path
) -> None:
    uneven = f"npz:{write_blobs(tmp_path / 'uneven.npz', train=240, test=100, uneven=True)}"
    options = {"data": uneven, **order_of(kind, tmp_path)}
    plain = train(**options, out=Path("plain"))
    card = train(**options, **balance, out=Path("balanced"))
    assert (plain["sampling"], plain["class_weights"]) == ("uniform", None)
    assert (card["sampling"], card["class_weights"]) == (
        balance.get("sampling", "uniform"),
        weights,
    )
    assert json.loads(Path("balanced/metrics.json").read_text()) == card
    before, after = recalls("plain", uneven)[2], recalls("balanced", uneven)[2]
    assert after > before + 0.2, "5 % are of class 2, 80 % of class 0"


def test_a_killed_training_goes_on_with_its_class_weights_alone(
    train: Train, tmp_path: Path
) -> None:
    options = order_of("from scratch", tmp_path) | {"epochs": 3}
    weighed = {"class_weights": "1=5,2=16"}
    plain = train(**options, out=Path("plain"))["weights_hash"]
    expected = train(**options, **weighed, out=Path("weighed"))["weights_hash"]
    assert plain != expected

    def die(event: Event) -> None:
        if "epoch 3 of" in event.text:
            raise Killed

    with pytest.raises(Killed):
        train(**options, **weighed, on_event=die)
    assert list(Path().glob("made.*")), "its checkpoints"
    assert train(**options)["weights_hash"] == plain, "another training, and not that checkpoint"
    Path("made").rename("other")
    assert train(**options, **weighed)["weights_hash"] == expected
