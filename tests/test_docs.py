"""The documents on methods: every recipe in them is loaded and trained, every key described."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nasdistill import training
from nasdistill.data import Dataset, load_data
from nasdistill.losses import TERMS
from nasdistill.models import Classifier, build
from nasdistill.recipe import (
    FeedOptions,
    IterateOptions,
    ObjectiveOptions,
    Recipe,
    StageOptions,
    SyntheticOptions,
    TeacherOptions,
    load_recipe,
)
from nasdistill.recipe.objective import ExamplesOptions, MixOptions, RandAugmentOptions
from nasdistill.recipe.terms import known_terms
from nasdistill.space import Architecture, SearchSpace
from nasdistill.teachers import Teacher, load_teacher, weights_hash
from nasdistill.teachers.recorded import recorded_teacher
from nasdistill.training import LRSchedule
from nasdistill.trials import validation
from nasdistill.trials.teacher_pool import TeacherPool
from nasdistill.trials.training_setup import OF_THE_OBJECTIVE, open_setup

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("methods.md", "choosing.md", "../README.md")
BATCH, STEPS, IMAGES = 16, 2, 48

STUDENT = {
    "activation": "relu",
    "stem": 8,
    "stages": [
        {"width": 16, "depth": 1, "block": {"type": "fused", "expansion": 1}},
        {"width": 24, "depth": 1, "block": {"type": "fused", "expansion": 1}},
        {"width": 32, "depth": 1, "block": {"type": "fused", "expansion": 1}},
    ],
    "head": 64,
}
FORMER = {
    "tokens": 7,
    "stem": {"type": "patch"},
    "heads": 2,
    "head_width": 8,
    "depth": 2,
    "mlp_ratio": 1,
}


def blocks() -> list[tuple[str, str]]:
    """Every fenced YAML of the pages, with its place."""
    fenced = []
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for match in re.finditer(r"```yaml\n(.*?)```", text, re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            fenced.append((f"{page}:{line}", match.group(1)))
    return fenced


BLOCKS = dict(blocks())
SPACES = {place for place, text in BLOCKS.items() if "\nparameters:" in text}
RECIPES = sorted(set(BLOCKS) - SPACES)


@dataclass(frozen=True)
class Shipped:
    """The shipped data, cut to a few images, and the shipped teacher."""

    data: Dataset
    teacher: Teacher


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    whole = load_data("fashion-mnist-mini", device=torch.device("cpu"))
    batch = next(iter(whole.train.batches([(torch.arange(IMAGES), None)], whole.input.size)))
    few = whole.with_training(batch.images, batch.labels.numpy(), "few")
    teacher = load_teacher("shipped", whole, device=torch.device("cpu"))
    return Shipped(few, teacher)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


def read(text: str, folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, {"batch_size": BATCH, "views": 1, "precision": "fp32"})


def small(options: ObjectiveOptions) -> ObjectiveOptions:
    """The same with few synthetic images, if it has any."""
    if options.feed.synthetic is None:
        return options
    feed = options.feed.model_copy(update={"synthetic": SyntheticOptions(images=IMAGES, steps=1)})
    return options.model_copy(update={"feed": feed})


def former(data: Dataset) -> Teacher:
    """A small transformer in the place of a large one."""
    torch.manual_seed(0)
    values = {**FORMER, "depth": 3, "head_width": 12}
    net: nn.Module = Classifier(
        build(Architecture("vit", values), data.input, len(data.classes)), data.mean, data.std
    )
    net.eval().requires_grad_(False)
    return Teacher("former", net, data.input, len(data.classes), weights_hash(net), {})


def record(data: Dataset, count: int) -> None:
    """Writes answers to some of the examples, where the recipes look for them."""
    rows = np.random.default_rng(0).dirichlet(np.ones(len(data.classes)), count)
    np.savez("answers.npz", ids=np.array(data.names[:count]), probabilities=rows)


@pytest.mark.parametrize("place", RECIPES)
def test_recipes_in_the_docs_are_loaded_and_train(
    place: str, shipped: Shipped, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    recipe = read(BLOCKS[place], root)
    data, is_vit = shipped.data, recipe.space == "vit"
    main = former(data) if is_vit else shipped.teacher
    record(data, IMAGES if recipe.teacher.startswith("table:") else IMAGES - 4)
    if recipe.teacher.startswith("table:"):
        main = recorded_teacher(recipe.teacher, data)
    teacher_pool = TeacherPool(
        data,
        main,
        recipe.teachers,
        lambda name, options: shipped.teacher,
        root / "cache",
        lambda examples, seconds: None,
        lambda text: None,
    )
    architecture = Architecture("vit", FORMER) if is_vit else Architecture("mobile", STUDENT)
    for options in {id(each): each for each in (recipe.scoring, recipe.final)}.values():
        if options != ObjectiveOptions() or not main.runs:
            train(small(options), recipe, teacher_pool, architecture)


def train(
    options: ObjectiveOptions, recipe: Recipe, teacher_pool: TeacherPool, architecture: Architecture
) -> None:
    """A step at the begin of a run and one in its middle: both change the student."""
    setup = open_setup(options, recipe, teacher_pool)
    validation._check_tables("final", setup)
    students = setup.students(architecture, teacher_pool.dataset, 0)
    before = [p.detach().clone() for p in students[0].parameters()]
    run = setup.run(
        students,
        horizon=2 * STEPS * BATCH,
        lr_schedule=LRSchedule(0.01, BATCH, None, 1000),
        seed=0,
        precision="fp32",
    )
    setup.prepare(STEPS * BATCH, 0)
    losses = [progress.loss for progress in training.train(run, STEPS * BATCH, every=1)]
    assert len(losses) == STEPS and all(np.isfinite(losses)) and max(losses) > 0
    after = list(run.students[0].parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("place", sorted(SPACES))
def test_spaces_in_the_docs_are_read(place: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(BLOCKS[place])
    assert OF_THE_OBJECTIVE in SearchSpace.load(str(path)).root.children


def test_every_term_has_a_recipe(root: Path) -> None:
    used: set[str] = set()
    options: set[str] = set()
    for place in RECIPES:
        objective = read(BLOCKS[place], root).final
        used |= set(objective.names())
        for item in (item for terms in objective.parts() for item in terms or ()):
            options |= {str(getattr(item, key, "")) for key in ("of", "on")}
    assert used == set(TERMS)
    assert options >= {"maps", "matrices", "values", "logits", "features"}


MODELS: tuple[Any, ...] = (
    *(term.Options for term in known_terms().values()),
    ObjectiveOptions,
    StageOptions,
    ExamplesOptions,
    FeedOptions,
    MixOptions,
    RandAugmentOptions,
    SyntheticOptions,
    TeacherOptions,
    IterateOptions,
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_described(model: Any) -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(\w+)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    lacking = [name for name in model.model_fields if name not in names | {"term", "kind"}]
    assert not lacking, f"docs/methods.md does not describe {', '.join(lacking)}"


def anchor_of(heading: str) -> str:
    """What a link to a heading is called."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_between_the_docs_lead_somewhere() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for file, anchor in re.findall(r"\]\(([\w./-]*)#?([\w-]*)\)", text):
            target = (DOCS / page).parent / file if file else DOCS / page
            assert target.exists(), f"{page}: {file}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in map(anchor_of, heads), f"{page}: #{anchor}"
