from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasdistill.common.errors import UserError
from nasdistill.models import Classifier
from nasdistill.teachers.weights import load_file

Save = Callable[[nn.Module], Any]


class Net(nn.Module):
    """A network with a nested part."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return result


def _compiled(net: nn.Module) -> Any:
    return torch.compile(net)


def _prefixed(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in net.state_dict().items()}


def _compiled_part(net: nn.Module) -> dict[str, Tensor]:
    net.body = torch.compile(net.body)  # type: ignore[assignment]
    assert "body._orig_mod.0.weight" in net.state_dict()
    return net.state_dict()


def _parallel_part(net: nn.Module) -> dict[str, Tensor]:
    net.body = nn.DataParallel(net.body)  # type: ignore[arg-type]
    assert "body.module.0.weight" in net.state_dict()
    return net.state_dict()


SAVED: dict[str, Save] = {
    "compiled": lambda net: _compiled(net).state_dict(),
    "parallel": lambda net: nn.DataParallel(net).state_dict(),
    "parallel, compiled": lambda net: _compiled(nn.DataParallel(net)).state_dict(),
    "compiled, parallel": lambda net: nn.DataParallel(_compiled(net)).state_dict(),
    "twice parallel": lambda net: _prefixed(net, "module.module."),
    "compiled part": _compiled_part,
    "parallel part": _parallel_part,
    "averaged": lambda net: AveragedModel(_compiled(net)).state_dict(),
    "classifier": lambda net: _compiled(Classifier(net, (0.1,) * 3, (0.2,) * 3)).state_dict(),
    "lightning": lambda net: {
        "state_dict": {**_prefixed(_compiled(net), "model."), "criterion.weight": torch.ones(10)},
        "hyper_parameters": {"lr": 0.1},
    },
    "checkpoint": lambda net: {"model_state_dict": nn.DataParallel(net).state_dict(), "epoch": 3},
}


def _same(net: nn.Module, other: nn.Module) -> bool:
    images = torch.rand(2, 3, 8, 8)
    return torch.equal(net.eval()(images), other.eval()(images))


@pytest.mark.parametrize("kind", SAVED)
def test_weights_of_a_wrapped_teacher_are_those_of_the_teacher(kind: str, tmp_path: Path) -> None:
    torch.save(SAVED[kind](Net(seed=3)), tmp_path / "w.pt")
    net = Net()
    loaded = load_file(net, tmp_path / "w.pt", "mine")
    assert _same(net, Net(seed=3)) and "by name" in loaded.description
    assert (loaded.normalisation is not None) == (kind == "classifier")


@pytest.mark.parametrize("wrap", [_compiled, nn.DataParallel])
def test_plain_weights_go_into_a_wrapped_teacher(wrap: Any, tmp_path: Path) -> None:
    save_file(Net(seed=3).state_dict(), tmp_path / "w.safetensors")
    net = Net()
    load_file(wrap(net), tmp_path / "w.safetensors", "mine")
    assert _same(net, Net(seed=3))
    part = Net()
    _compiled_part(part)
    load_file(part, tmp_path / "w.safetensors", "mine")
    names = {name.replace("._orig_mod", ""): t for name, t in part.state_dict().items()}
    assert all(torch.equal(names[name], t) for name, t in Net(seed=3).state_dict().items())


def test_which_weights_of_a_checkpoint_are_taken_is_said(tmp_path: Path) -> None:
    content = {"state_dict": Net(1).state_dict(), "state_dict_ema": Net(2).state_dict()}
    torch.save(content, tmp_path / "w.pt")
    net = Net()
    description = load_file(net, tmp_path / "w.pt", "mine").description
    assert _same(net, Net(seed=2))
    average = "'state_dict_ema' (averaged over the training), not 'state_dict'"
    assert description == f"w.pt, by name; its {average}"


def test_an_average_beside_the_weights_in_one_dict_is_taken(tmp_path: Path) -> None:
    both = _prefixed(Net(1), "model.") | _prefixed(Net(2), "ema_model.module.")
    save_file(both, tmp_path / "w.safetensors")
    net = Net()
    description = load_file(net, tmp_path / "w.safetensors", "mine").description
    assert _same(net, Net(seed=2)) and "begin with 'ema_model.module.'" in description


def test_two_networks_side_by_side_are_refused(tmp_path: Path) -> None:
    both = _prefixed(Net(1), "first.") | _prefixed(Net(2), "second.")
    save_file(both, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="weights of another architecture"):
        load_file(Net(), tmp_path / "w.safetensors", "mine")
