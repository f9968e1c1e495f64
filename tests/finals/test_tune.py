"""Temperature and α for one architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nasdistill
from nasdistill import api
from nasdistill.cli import app
from nasdistill.common.errors import UserError
from nasdistill.recipe import load_recipe
from nasdistill.report.tune import tuned_info

POINTS = [
    {"temperature": t, "alpha": a, "accuracy": 0.5 + t / 100 + a, "low": 0.4, "high": 0.9}
    for t in (4.0, 1.0)
    for a in (0.1, 0.0)
]


@pytest.fixture
def study(here: Path) -> str:
    options = {
        "trials": 1,
        "final_budget": "1 epochs",
        "rungs": {"first": "200 images", "count": 1},
    }
    nasdistill.search(load_recipe("recipe.yaml", {**options, "min_accuracy": 0}))
    return "small"


def test_a_study_is_tuned_and_tried_points_are_kept(study: str) -> None:
    texts: list[str] = []
    first = api.tune(study, temperatures=(1, 4), alphas=(0.0, 0.5), epochs=1)
    assert [(p["temperature"], p["alpha"]) for p in first.points] == [
        (1, 0.0),
        (1, 0.5),
        (4, 0.0),
        (4, 0.5),
    ]
    assert first.best["accuracy"] == max(p["accuracy"] for p in first.points)
    assert all(p["low"] <= p["accuracy"] <= p["high"] for p in first.points)
    assert "Plotly" in first.picture.read_text()
    again = api.tune(
        study,
        temperatures=(1, 4),
        alphas=(0.0, 0.5),
        epochs=1,
        on_event=lambda e: texts.append(e.text),
    )
    assert again.points == first.points
    assert not any("epoch 1 of" in text for text in texts), "a point was trained again"


def test_an_architecture_alone(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("studies/small/finals/1/architecture.json")
    Path("mine.json").write_text(path.read_text())
    result = CliRunner().invoke(
        app,
        [
            "tune",
            "mine.json",
            "--over",
            "temperature",
            "--temperatures",
            "2,8",
            "--epochs",
            "1",
            "--data",
            "npz:blobs.npz",
            "--teacher",
            "folder:studies/small/finals/1",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["points"]
    assert [p["temperature"] for p in points] == [2.0, 8.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"over": ("temprature",)}, "did you mean 'temperature'?"),
        ({"temperatures": (0.0,)}, r"temperature 0 is not in \[0.01"),
        ({"over": ("alpha",), "temperatures": (1.0,)}, "--over does not name it"),
        ({"data": "npz:other.npz"}, "go with an architecture.json; a study has"),
    ],
)
def test_what_cannot_be_tuned(study: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        api.tune(study, **options)  # type: ignore[arg-type]


def test_lines_of_the_picture() -> None:
    info = tuned_info(POINTS)
    assert (info.over, info.other) == ("temperature", "alpha")
    assert list(info.lines) == [0.0, 0.1]
    assert [point[0] for point in info.lines[0.1]] == [1.0, 4.0]
    alone = tuned_info([{k: v for k, v in p.items() if k != "temperature"} for p in POINTS[:2]])
    assert (alone.over, alone.other, list(alone.lines)) == ("alpha", None, [None])
