"""Finals against their teachers, on other data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from nasdistill.api.evaluating import _order
from nasdistill.common.errors import UserError
from nasdistill.data import Dataset


def _data(*classes: str) -> Dataset:
    return cast(Dataset, SimpleNamespace(name="it", classes=classes))


def test_other_data_may_spell_and_order_the_classes_otherwise() -> None:
    own = _data("T-shirt/top", "Bag", "Coat")
    assert _order(own, _data("bag", "Coat", "T-shirt_top")) == [1, 2, 0]
    with pytest.raises(UserError, match="it adds 'Box'; it lacks 'Bag'"):
        _order(own, _data("Box", "Coat", "T-shirt_top"))
