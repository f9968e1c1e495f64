"""Finals against their teachers, on other data."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from nasdistill import api
from nasdistill.api.evaluating import _order
from nasdistill.common import events
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.data import Dataset, load_data
from nasdistill.recipe import load_recipe

SHORT = {"trials": 2, "top_k": 1, "final_budget": "2 epochs", "stopping": False}


def write_folder(root: Path, count: int, seed: int) -> None:
    """Grey pictures of 16 by 16 in class folders: noise with a bright bar, as `write_blobs`."""
    rng = np.random.default_rng(seed)
    for label in range(3):
        (root / f"class {label}").mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(0, 200, (16, 16)).astype(np.uint8)
            picture[3 + 4 * label : 5 + 4 * label, 3:13] += 55
            Image.fromarray(picture).save(root / f"class {label}" / f"{number}.png")


def test_other_pictures_without_splits_are_all_evaluated(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(Path("own"), 30, seed=0)
    write_folder(Path("new"), 10, seed=1)
    write_folder(Path("divided/train"), 10, seed=2)
    write_folder(Path("divided/test"), 4, seed=3)
    api.search(load_recipe("recipe.yaml", {**SHORT, "data": "folder:own", "max_params": "100k"}))
    shutil.copytree("own", "copied")
    monkeypatch.setattr(events, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.0)

    def evaluated(data: str) -> tuple[int, str, list[Event]]:
        event_list: list[Event] = []
        quality = api.evaluate("small/1", data=data, device="cpu", on_event=event_list.append)
        assert quality["examples"] == sum(row["examples"] for row in quality["per_class"])
        return quality["examples"], quality["split"], event_list

    *count_and_split, event_list = evaluated("folder:new")
    assert count_and_split == [30, "all"]
    texts = [event.text for event in event_list]
    assert "asking student and teacher: 30 examples, all of folder:new" in texts
    for text in ("reading images", "asking the teacher", "asking the student"):
        assert text in texts
    assert not [text for text in texts if "by heart" in text]
    assert evaluated("folder:divided")[:2] == (12, "test")
    *count_and_split, event_list = evaluated("folder:copied")
    assert count_and_split == [21, "test"], "the final has seen the others"
    text = "asking student and teacher: 21 examples, the test split of folder:copied"
    assert text in [event.text for event in event_list]
    shutil.copytree("new", "own", dirs_exist_ok=True)  # writes over some of them
    Path("own").rename("mixed")
    Path("copied").rename("own")
    *count_and_split, event_list = evaluated("folder:mixed")
    kept = {path.relative_to("mixed") for path in Path("mixed").rglob("*.png")}
    kept -= {path.relative_to("new") for path in Path("new").rglob("*.png")}
    trained = load_data("folder:own", device=torch.device("cpu")).names
    seen = len({path.as_posix() for path in kept} & set(trained))
    text = f"data folder:mixed: {seen} of 90 pictures are among those that the final was trained on"
    assert count_and_split == [90, "all"] and any(
        event.text.startswith(text) for event in event_list
    )


def _data(*classes: str) -> Dataset:
    return cast(Dataset, SimpleNamespace(name="it", classes=classes))


def test_other_data_may_spell_and_order_the_classes_otherwise() -> None:
    own = _data("T-shirt/top", "Bag", "Coat")
    assert _order(own, _data("bag", "Coat", "T-shirt_top")) == [1, 2, 0]
    with pytest.raises(UserError, match="it adds 'Box'; it lacks 'Bag'"):
        _order(own, _data("Box", "Coat", "T-shirt_top"))
