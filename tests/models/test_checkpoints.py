from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.models.checkpoints import is_averaged, weights_in, without_wrappers
from nasdistill.models.weights import read_checkpoint

OWN = {"a.weight": torch.zeros(2), "a.bias": torch.ones(2)}
AVERAGE = {"a.weight": torch.full((2,), 5.0), "a.bias": torch.full((2,), 6.0)}
MOMENTS = nn.Linear(2, 2)
OPTIMIZER = torch.optim.AdamW(MOMENTS.parameters()).state_dict()


@pytest.mark.parametrize(
    ("content", "entry", "left"),
    [
        (OWN, "", ()),
        ({"state_dict": OWN, "epoch": 3, "optimizer": OPTIMIZER}, "state_dict", ()),
        ({"model": OWN, "args": {"lr": 0.1}}, "model", ()),
        ({"model_state_dict": OWN}, "model_state_dict", ()),
        ({"checkpoint": {"state_dict": OWN}}, "checkpoint.state_dict", ()),
        ({"student": OWN, "epoch": 3}, "student", ()),
        ({"state_dict": OWN, "statistics": AVERAGE}, "state_dict", ("statistics",)),
        ({"state_dict": OWN, "ema": None, "model_ema": {}}, "state_dict", ()),
    ],
)
def test_the_weights_of_a_checkpoint_are_found(
    content: Any, entry: str, left: tuple[str, ...]
) -> None:
    weights = weights_in(content)
    assert weights is not None and weights.tensors is not AVERAGE
    assert (weights.tensors, weights.entry, weights.left) == (OWN, entry, left)


@pytest.mark.parametrize("name", ["ema", "model_ema", "state_dict_ema", "ema_state_dict"])
@pytest.mark.parametrize("own", ["state_dict", "model"])
def test_an_average_is_taken_before_the_weights_themselves(name: str, own: str) -> None:
    weights = weights_in({own: OWN, name: AVERAGE, "optimizer": OPTIMIZER})
    assert weights is not None and is_averaged(weights.entry) and not is_averaged(own)
    assert (weights.tensors, weights.entry, weights.left) == (AVERAGE, name, (own,))


def test_an_average_in_a_wrapper_is_found() -> None:
    content = {"model": OWN, "ema": {"module": AVERAGE, "updates": 12}}
    weights = weights_in(content)
    assert weights is not None and weights.entry == "ema.module" and is_averaged("ema.module")
    averaged = torch.optim.swa_utils.AveragedModel(MOMENTS).state_dict()
    weights = weights_in({"state_dict": averaged})
    assert weights is not None and "n_averaged" in weights.tensors


@pytest.mark.parametrize(
    "content", [{}, [], 3, {"epoch": 3}, {"teacher": OWN, "student": AVERAGE}, {1: OWN["a.bias"]}]
)
def test_what_holds_no_weights_or_several_is_refused(content: Any, tmp_path: Path) -> None:
    assert weights_in(content) is None
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: holds no state_dict .*; found ") as caught:
        read_checkpoint(tmp_path / "x.pt")
    if isinstance(content, dict) and "teacher" in content:
        assert "'teacher' (dict), 'student' (dict)" in str(caught.value)


def test_names_lose_what_wrappers_add() -> None:
    assert without_wrappers("_orig_mod.layer1._checkpoint_wrapped_module.weight") == "layer1.weight"
    assert without_wrappers("layer1.weight") == "layer1.weight"
