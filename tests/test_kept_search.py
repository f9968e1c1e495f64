"""A search of cuts of pretrained nets, its space written into the recipe itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pretrained_space import EFFICIENT, RESIDUAL, SEARCH, prepare_pretrained

import nasdistill
from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.models.weights import read_weights
from nasdistill.recipe import load_recipe

SPACE = f"""\
space:
  family: pretrained
  parameters:
    model: {{choice: [{EFFICIENT}, {RESIDUAL}]}}
  weights:
    {EFFICIENT}: weights/efficient.safetensors
    {RESIDUAL}: weights/residual.safetensors
  keep:
    {RESIDUAL}: {{width: 0.75}}
"""
RECIPE = (
    SEARCH.replace("space: own.yaml\n", SPACE)
    .replace("top_k: 2", "top_k: 1")
    .replace("count: 3", "count: 1")
    .replace("final_budget: 4 epochs", "final_budget: 1 epochs")
)


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return prepare_pretrained(tmp_path, RECIPE)


def test_a_search_goes_on_without_its_recipe(nets: Path) -> None:
    nasdistill.search(load_recipe("recipe.yaml", {"trials": 1}))
    for file in ("recipe.yaml", "own.yaml"):
        (nets / file).unlink()
    outcome = api.resume("small", overrides={"trials": 2})
    record = outcome.record
    assert record.state == "complete" and record.recipe["space"]["family"] == "pretrained"
    tried = [c.architecture["values"]["model"] for c in record.candidates]
    whole, cut = sorted(tried, key=lambda model: model["type"])
    assert whole == {"type": EFFICIENT}
    assert (cut["type"], cut["keep"]["width"]) == (RESIDUAL, 0.75)
    counts = {c.architecture["values"]["model"]["type"]: c.params for c in record.candidates}
    assert 0.45 < counts[RESIDUAL] / 373_000 < 0.7  # 0.75² of the whole net's
    # The net was judged, cut and distilled once, in a folder of its own.
    made = nets / "studies" / "small" / "cut" / "timm-test_resnet"
    names = {path.name for path in made.glob("*.safetensors")}
    steps = {"0.75.safetensors", "0.75-scores.safetensors"}
    assert names == {"1-head.safetensors", "1-scores.safetensors"} | steps
    scores = read_weights(made / "1-scores.safetensors")
    assert float(scores["net.conv1.0"].min()) > 0  # behind a head of zeros all were 0
    _stands_alone(record.finals[0].folder, nets)
    assert "cut from timm:test_" in record.finals[0].metrics["begin_weights"]
    assert "the space `pretrained`" in (record.finals[0].folder / "README.md").read_text()
    # The same space as a file, where the study lies elsewhere.
    with pytest.raises(UserError, match="keep"):
        (nets / "other.yaml").write_text((SPACE_FILE).replace("0.75", "0.5"))
        api.resume("small", overrides={"space": "other.yaml"})
    (nets / "other.yaml").write_text(SPACE_FILE)
    assert api.resume("small", overrides={"space": "other.yaml"}).already_complete


SPACE_FILE = "name: pretrained\n" + "\n".join(
    line.removeprefix("  ") for line in SPACE.splitlines()[1:]
)


def _stands_alone(final: Path, folder: Path) -> None:
    elsewhere = folder / "alone"
    final.rename(elsewhere)
    (folder / "weights").rename(folder / "gone")
    program = (
        "import sys, torch, nasdistill; m = nasdistill.load(sys.argv[1]);"
        "print(tuple(m(torch.rand(2, 1, 16, 16)).shape))"
    )
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(elsewhere)],
        cwd=folder / "gone",
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(2, 3)"
    architecture: Any = json.loads((elsewhere / "architecture.json").read_text())
    assert architecture["family"] == "pretrained"
    assert architecture["values"]["model"]["type"] in (EFFICIENT, RESIDUAL)
    elsewhere.rename(final)
    (folder / "gone").rename(folder / "weights")


def test_limits_that_no_model_keeps(nets: Path) -> None:
    cut = load_recipe("recipe.yaml", {"max_params": 500})
    whole = load_recipe("recipe.yaml", {"max_params": 500, "space": "own.yaml"})
    for recipe, least in ((cut, "60,419"), (whole, r"[\d,]+")):
        message = f"--max-params 500: the smallest net of the space '.*' has {least} parameters"
        with pytest.raises(UserError, match=message):
            nasdistill.search(recipe)
        assert not (nets / "studies" / "small").exists()


def test_what_is_wrong_with_a_models_ratios(nets: Path) -> None:
    recipe = load_recipe("recipe.yaml", {})
    space: Any = recipe.space
    space["keep"] = {RESIDUAL: {"stages": {"7": {"inner": 0.5}}}}
    with pytest.raises(UserError, match=f"{RESIDUAL}: keep.stages.7: the net has"):
        nasdistill.search(load_recipe("recipe.yaml", {"space": space}))
    space["keep"] = {"width": 0.5}
    space["weights"] = {EFFICIENT: "weights/residual.safetensors"}
    with pytest.raises(UserError, match="residual.safetensors"):
        nasdistill.search(load_recipe("recipe.yaml", {"space": space}))
