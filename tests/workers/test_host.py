"""What an actor does on its node, without Ray: here on one that does not see the study's folder."""

from __future__ import annotations

import time
from pathlib import Path

from nasdistill.recipe import load_recipe
from nasdistill.results import COUNTED
from nasdistill.study import Study
from nasdistill.workers.cluster import node_answers, problem_of, recipe_file
from nasdistill.workers.host import END, WorkerHost
from nasdistill.workers.pool import first_message


def test_a_node_without_the_folder_fetches_it_into_its_own(here: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "node" / "work"
    places = {"storage": f"sqlite:///{tmp_path}/study.db", "files": f"file://{tmp_path}/shared"}
    options = {"data": f"npz:{tmp_path}/blobs.npz", "trials": 2, "experience": False}
    study = Study.open(load_recipe("recipe.yaml", {**places, **options}), Path("studies"), "")
    host = WorkerHost(str(elsewhere), first_message(study), {})
    task = {"do": "search", "begun": time.monotonic(), "workers": 1, "threads": 1}
    host.send(task, 0.0)
    messages, until = host.read(), time.monotonic() + 300
    while {"did": "search"} not in messages:
        assert not any(END in message for message in messages), messages
        assert time.monotonic() < until, messages
        messages += host.read()
    host.end()
    assert [c.state in COUNTED for c in study.candidates() if c.rungs] == [True] * 2
    assert (elsewhere / "studies/small/recipe.yaml").exists() and (elsewhere / "own.py").exists()
    assert not list(Path("studies/small").glob("trials/*")), "nothing was trained in this folder"


def test_a_node_need_not_see_the_folder_where_files_go_by_a_url(here: Path) -> None:
    recipe = load_recipe("recipe.yaml", {"storage": f"sqlite:///{here}/study.db"})
    study = Study.open(recipe, Path("studies"), "")
    answers = {**node_answers()(str(recipe_file(study))), "recipe": None}
    assert "give --files URL" in str(problem_of(answers, study))
    study.recipe = study.recipe.model_copy(update={"files": f"file://{here}/shared"})
    assert problem_of(answers, study) is None
