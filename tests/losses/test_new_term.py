"""A term of one's own: one file with the class and its options, one line in `TERMS`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from model_helpers import GREY, batch_of, conv

from nasdistill.common.errors import UserError
from nasdistill.losses import TERMS, objective_of
from nasdistill.models.hooks import Outputs
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.testing import check_term

FILE = '''
"""The largest logit: the student's is to be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from nasdistill.common.values import Temperature
from nasdistill.data import Batch
from nasdistill.losses.options import AskingOptions, Factor, TermOptions
from nasdistill.losses.schedules import Schedule, constant
from nasdistill.losses.term import Outputs, Term


class LargestOptions(AskingOptions):
    """`largest`: the squared difference of the largest logits."""

    term: Literal["largest"]
    margin: Factor = 0.0
    temperature: Temperature = 2.0


@dataclass(frozen=True)
class Largest(Term):
    """The squared difference of the largest logits, beyond a margin."""

    Options: ClassVar[type[TermOptions]] = LargestOptions
    asks_teacher: ClassVar[bool] = True
    one_label: ClassVar[bool] = True
    capture_obstacle: ClassVar[str | None] = "is too new"
    margin: float = 0.0
    temperature: Schedule = constant(2.0)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None
        apart_B = student.logits.amax(dim=1).float() - teacher.logits.amax(dim=1).float()
        return (apart_B.abs() / self.temperature(progress) - self.margin).clamp_min(0).square()
'''


@pytest.fixture
def largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "largest.py").write_text(FILE)
    spec = importlib.util.spec_from_file_location("largest", tmp_path / "largest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "largest", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(TERMS, "largest", module.Largest)
    return module


def read(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml", {})


def test_a_recipe_names_it_and_it_gives_its_loss(largest: ModuleType, tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        "final:\n  terms:\n    - {term: labels, weight: 0.5}\n"
        "    - {term: largest, weight: 3, margin: 0.25, temperature: {linear: [4, 2]}}\n",
    )
    _, item = objective_of(recipe.final).terms
    assert isinstance(item.term, largest.Largest)
    assert item.weight(0.0) == 3 and item.teacher == "teacher"
    student = Outputs(torch.tensor([[1.0, 5.0], [0.0, 0.5]]))
    teacher = Outputs(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    batch = batch_of(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
    # Largest logits are 2 and 0 apart; half-way through the temperature is 3.
    expected = [(2 / 3 - 0.25) ** 2, 0.0]
    assert item.term(student, teacher, batch, 0.5).tolist() == pytest.approx(expected)
    check_term(largest.Largest, conv(), conv((6, 10, 12), seed=1), GREY)


def test_it_is_stored_and_read_again(largest: ModuleType, tmp_path: Path) -> None:
    text = "final: {terms: [{term: labels}, {term: largest, margin: 0.5}]}\n"
    recipe = read(tmp_path, text)
    stored = recipe.stored()
    assert stored["final"]["terms"][1] == {
        "weight": 1.0,
        "teacher": "teacher",
        "term": "largest",
        "margin": 0.5,
        "temperature": 2.0,
    }
    assert Recipe.model_validate(stored) == recipe


def test_a_wrong_option_is_told_with_line_and_nearest_name(
    largest: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(
            tmp_path, "final:\n  terms:\n    - term: labels\n    - term: largest\n      margn: 1\n"
        )
    assert str(caught.value).endswith(
        "recipe.yaml:5: final.terms.1.margn: unknown key; did you mean 'margin'? (known: weight, "
        "teacher, term, margin, temperature)"
    )
    with pytest.raises(UserError, match=r"allowed: .*did you mean 'largest'"):
        read(tmp_path, "final: {terms: [{term: labels}, {term: largst}]}\n")


def test_its_attributes_hold(largest: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="largest needs one label for each example"):
        read(tmp_path, "final: {terms: [{term: largest}], feed: {mix: {kind: mixup}}}\n")
