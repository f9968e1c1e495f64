"""Objectives and teachers of a recipe: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.losses.logits import KLOptions
from nasdistill.recipe import (
    Budget,
    ObjectiveOptions,
    Recipe,
    SyntheticOptions,
    from_stored,
    load_recipe,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    """The one message, which names the file and a line."""
    path = write(folder, text)
    with pytest.raises(UserError) as caught:
        load_recipe(path, {})
    message = str(caught.value)
    assert message.startswith(f"{path}:") and "\n" not in message, message
    return message.removeprefix(f"{path}:")


WHOLE = """\
teachers:
  big: {model: "timm:resnet50", weights: big.safetensors}
  api: {table: answers.npz, missing: skip}
  both: {mean_of: [teacher, big, api], shares: [2, 1, 1], by: certainty}
  average: {ema: 0.999}
  past: {earlier: 2 epochs}
  others: {peers: 3}
final:
  balance: gradient
  feed: {mix: {kind: cutmix}, rand_augment: {operations: 1, magnitude: 5}}
  stages:
    - until: 0.3
      alpha: 0.3
      temperature: 8
    - until: 0.7
      terms:
        - {term: features, layers: {0: [0, 1], stage1: layer2}, combine: concat, teacher: big}
        - {term: kl, teacher: both}
        - {term: attention, of: maps, loss: kl, weight: {warm_up: [1, 0.2]}}
    - until: 1
      terms:
        - {term: labels}
        - {term: exits, layers: [0, stage1], soft: 0.3}
        - {term: mse_logits, teacher: others}
"""


def test_a_whole_recipe_is_read_and_written(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, WHOLE), {})
    assert recipe.final.stages is not None and len(recipe.final.stages) == 3
    assert recipe.final.teachers() == ("teacher", "big", "both", "others")
    assert recipe.final.names() == ("labels", "kl", "features", "attention", "exits", "mse_logits")
    second = recipe.final.stages[1].terms
    assert second is not None
    assert second[0].layers == {"0": ("0", "1"), "stage1": ("layer2",)}
    assert recipe.teachers["both"].mean_of == ("teacher", "big", "api")
    assert recipe.teachers["past"].earlier is not None
    assert recipe.teachers["past"].earlier.examples(100) == 200
    assert from_stored(recipe.stored()) == recipe
    assert load_recipe(write(tmp_path, recipe.to_yaml()), {}) == recipe
    assert recipe.study_name() != Recipe().study_name() and Input(1, 2, 3).size == (2, 3)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        (
            "stages: [{until: 0.5}, {until: 0.5}, {until: 1}]",
            2,
            "stage 1 ends at 0.5, but the one before it at 0.5: they overlap",
        ),
        ("stages: [{until: 0.7}, {until: 0.3}, {until: 1}]", 2, "they overlap"),
        ("stages: [{until: 0.3}, {until: 0.7}]", 2, "the last ends at 0.7; it must end at 1"),
        ("stages: []", 2, "stages: at least one is needed"),
        ("stages: [{until: 1.5}]", 2, "less than or equal to 1"),
        ("stages: [{alpha: 0.5}]", 2, "final.stages.0.until"),
        ("stages: [{until: 1}]\n  alpha: 0.5", 2, "give either stages or alpha"),
        ("stages: [{until: 1}]\n  terms: [{term: kl}]", 2, "give either stages or terms"),
        ("stages: [{until: 1, alpha: 0.5, terms: [{term: kl}]}]", 2, "give either terms or alpha"),
        ("stages: [{until: 1, terms: [{term: kl, weight: 0}]}]", 2, "all weights are zero"),
        (
            "stages:\n    - until: 0.5\n    - untl: 1\n      until: 1",
            4,
            "final.stages.1.untl: unknown key; did you mean 'until'?",
        ),
        (
            "stages:\n    - until: 1\n      terms:\n        - {term: kl}\n"
            "        - {term: kl, temprature: 3}",
            6,
            "final.stages.0.terms.1.temprature: unknown key; did you mean 'temperature'?",
        ),
        (
            "terms: [{term: labels, weight: 0}, {term: kl, weight: {linear: [0, 0]}}]",
            2,
            "all weights are zero, so nothing would be learned",
        ),
        ("terms: [{term: adversarial}]", 2, "adversarial alone teaches no classes"),
        (
            "terms: [{term: labels}, {term: adversarial, layers: {s: t}}]",
            2,
            "layers goes with on: features; found on: logits",
        ),
        (
            "terms: [{term: labels}, {term: adversarial}]\n  balance: value",
            2,
            "balance: adversarial has two sides",
        ),
        ("balance: values", 2, "allowed: value, gradient; did you mean 'value'?"),
        (
            "terms: [{term: dkd}]\n  feed: {mix: {kind: mixup}}",
            2,
            "feed.mix: dkd needs one label for each example",
        ),
        (
            "examples: {by: correct_only}\n  feed: {mix: {kind: mixup}}",
            2,
            "whether a teacher is right on a mixed example is not known",
        ),
        ("terms: [{term: labels}]\n  feed: {synthetic: {}}", 2, "no term asks the teacher"),
        (
            "feed:\n    mix: {kind: mixup}\n    rand_agment: {}",
            4,
            "final.feed.rand_agment: unknown key; did you mean 'rand_augment'?",
        ),
        ("feed:\n    mix:\n      kind: mixp", 4, "did you mean 'mixup'?"),
        ("feed: {mix: {kind: mixup, alph: 1}}", 2, "did you mean 'alpha'?"),
        ("feed: {rand_augment: {magnitude: 31}}", 2, "less than or equal to 30"),
        ("feed: {cut_out: 1}", 2, "less than 1"),
        ("terms: [{term: features, layers: []}]", 2, "the teacher's layers by the student's"),
        ("terms: [{term: features, layers: atuo}]", 2, "write auto, or the teacher's layers"),
        ("terms: [{term: features, layers: {0: []}}]", 2, "is not a layer's name or number"),
        ("terms: [{term: features, layers: {0: 1.5}}]", 2, "'0': 1.5 is not a layer's name or"),
        ("terms: [{term: features, layers: {0: [true]}}]", 2, "is not a layer's name or number"),
        ("terms: [{term: exits, layers: 3}]", 2, "a list of the student's layers"),
        ("terms: [{term: exits, teacher: big}]", 2, "final.terms.0.teacher: unknown key"),
        (
            "terms: [{term: attention, of: matrix}]",
            2,
            "allowed: maps, matrices, values; did you mean 'matrices'?",
        ),
        ("terms: [{term: attention, loss: l2}]", 2, "allowed: mse, kl, cosine"),
        ("terms: [{term: features, resize: pol}]", 2, "did you mean 'pool'?"),
        ("terms: [{term: crd, width: 1}]", 2, "greater than or equal to 2"),
        ("terms: [{term: rkd}]\n  examples: {by: entropy}", 2, "rkd couples the examples"),
        ("terms: [{term: exits}]\n  examples: {by: entropy}", 2, "no term asks the teacher"),
        ("terms: [{term: kl, weight: {warm_up: [1, 0]}}]", 2, "{warm_up: [value, share]}"),
        ("terms: [{term: kl, temperature: {linear: [4, 0]}}]", 2, "must be above 0"),
    ],
)
def test_objectives_that_cannot_work(tmp_path: Path, text: str, line: int, told: str) -> None:
    message = refused(tmp_path, f"final:\n  {text}\n")
    where = int(message.split(":")[0])
    assert told in message and where in (1, line), message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{ema: 0.9, peers: 2}", "found ema and peers"),
        ("{}", "give one of model, table, mean_of, ema, earlier, peers (found none)"),
        ("{peers: 1}", "greater than or equal to 2"),
        ("{peers: 9}", "less than or equal to 8"),
        ("{ema: 1.0}", "less than 1"),
        ("{earlier: 3}", "write a budget with its unit"),
        ("{table: a.npz, missing: ignore}", "allowed: error, skip"),
        ("{ema: 0.9, weights: w.pt}", "weights goes with model"),
        ("{model: x, missing: skip}", "missing goes with table"),
        ("{model: x, by: correct}", "by goes with mean_of"),
        ("{mean_of: [teacher]}", "at least 2"),
        ("{mean_of: [teacher, big], shares: [1]}", "shares: give one for each of mean_of"),
        ("{mean_of: [teacher, big], shares: [1, 0]}", "greater than 0"),
        ("{mean_of: [teacher, big], by: certanty}", "did you mean 'certainty'?"),
        ("{mean_of: [teacher, bg]}", "there is no teacher 'bg'; did you mean 'big'?"),
        ("{mean_of: [teacher, others]}", "'others' is no model and no table"),
        ("{modl: x}", "teachers.it.modl: unknown key; did you mean 'model'?"),
    ],
)
def test_teachers_that_cannot_work(tmp_path: Path, text: str, told: str) -> None:
    path = write(
        tmp_path, f"teachers:\n  big: {{model: x}}\n  others: {{peers: 2}}\n  it: {text}\n"
    )
    with pytest.raises(UserError) as caught:
        load_recipe(path, {})
    lines = [line for line in str(caught.value).splitlines() if told in line]
    assert lines, str(caught.value)
    assert lines[0].startswith((f"{path}:4: teachers.it", f"{path}:1: ")), lines


@pytest.mark.parametrize("key", ["scoring", "final"])
def test_a_teacher_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, key: str) -> None:
    for objective in (
        "{terms: [{term: kl, teacher: bgi}]}",
        "{examples: {by: entropy, teacher: bgi}}",
        "{stages: [{until: 0.5}, {until: 1, terms: [{term: kl, teacher: bgi}]}]}",
    ):
        message = refused(tmp_path, f"teachers: {{big: {{model: x}}}}\n{key}: {objective}\n")
        text = f"{key}: there is no teacher 'bgi'; did you mean 'big'? (there: teacher, big)"
        assert text in message


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ("{term: features}, {term: rkd}", "features and rkd alone teaches no classes; add labels"),
        ("{term: attention, of: values}", "attention alone"),
        ("{term: exits}, {term: adversarial}", "exits and adversarial alone"),
        ("{term: kl, teacher: slow}", "kl of 'slow' alone teaches no classes"),
        ("{term: dkd, teacher: past}, {term: crd}", "dkd of 'past' and crd alone"),
        ("{term: mse_logits, teacher: pair}", "mse_logits of 'pair' alone"),
        ("{term: labels, weight: 0}, {term: gram}", "gram alone"),
        ("{term: labels, weight: {linear: [0, 0.1]}}, {term: gram}", None),
        ("{term: dist}, {term: kl, teacher: slow}", None),
        ("{term: kl, teacher: box}", None),
        ("{term: kl, teacher: both}", None),
    ],
)
def test_terms_that_teach_no_classes_are_refused(
    tmp_path: Path, terms: str, told: str | None
) -> None:
    teachers = (
        "teachers: {slow: {ema: 0.9}, past: {earlier: 1 epochs}, pair: {peers: 2}, "
        "box: {table: t.npz}, both: {mean_of: [teacher, box]}}\n"
    )
    only = f"{teachers}final: {{terms: [{terms}]}}\n"
    hints_first = f"[{{until: 0.5, terms: [{terms}]}}, {{until: 1, alpha: 0.5}}]"
    if told is None:
        load_recipe(write(tmp_path, only), {})
    else:
        assert f"final: {told}" in refused(tmp_path, only)
    load_recipe(write(tmp_path, f"{teachers}final: {{stages: {hints_first}}}\n"), {})


def test_the_name_of_the_first_teacher_is_taken(tmp_path: Path) -> None:
    assert "the name 'teacher' is that of the recipe's own teacher" in refused(
        tmp_path, "teachers: {teacher: {peers: 2}}\n"
    )


def test_wrong_keys_of_many_places_are_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "teachers:\n  big:\n    model: x\n    wights: y\n"
        "final:\n  stages:\n    - until: 0.5\n      temprature: 4\n    - until: 1\n"
        "  feed:\n    synthetic: {imges: 3}\n  examples: {by: confident, treshold: 0.5}\n",
    )
    with pytest.raises(UserError) as caught:
        load_recipe(path, {})
    lines = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert [line.split(": ")[:2] for line in lines] == [
        ["4", "teachers.big.wights"],
        ["8", "final.stages.0.temprature"],
        ["11", "final.feed.synthetic.imges"],
        ["12", "final.examples.treshold"],
    ]
    for line, word in zip(lines, ("weights", "temperature", "images", "threshold"), strict=True):
        assert f"unknown key; did you mean '{word}'?" in line


def test_terms_in_python_are_options_or_plain_values() -> None:
    options = KLOptions(term="kl", weight=0.5)
    from_values = ObjectiveOptions.model_validate({"terms": ({"term": "kl", "weight": 0.5},)})
    assert ObjectiveOptions(terms=(options,)) == from_values
    assert load_recipe(None, {"final": from_values}).final == from_values
    for wrong in (Budget(images=3), "kl", 3, {"term": "kl", "wieght": 1}):
        with pytest.raises(ValidationError) as caught:
            ObjectiveOptions.model_validate({"terms": [wrong]})
        assert all(error["loc"][:2] == ("terms", 0) for error in caught.value.errors())


def test_synthetic_images_feed_both_objectives_without_labels_unless_these_are_asked_for(
    tmp_path: Path,
) -> None:
    recipe = load_recipe(None, {"synthetic": "96"})
    for options in (recipe.scoring, recipe.final):
        assert options.feed.synthetic == SyntheticOptions(images=96) and options.alpha == 0
        assert options.label_readers() == ()
    feed = "{cut_out: 0.2, synthetic: {steps: 3}}"
    text = f"scoring: {{alpha: 0.2}}\nfinal: {{terms: [{{term: kl}}], feed: {feed}}}\n"
    recipe = load_recipe(write(tmp_path, text), {"synthetic": 96})
    assert recipe.scoring.alpha == 0.2 and recipe.scoring.label_readers() == ("alpha",)
    assert recipe.final.feed.synthetic == SyntheticOptions(images=96, steps=3)
    assert recipe.final.feed.cut_out == 0.2 and recipe.final.names() == ("kl",)
    assert load_recipe(None, {"synthetic": "96", "final": {"alpha": "0.3"}}).final.alpha == 0.3
    assert from_stored(recipe.stored()) == recipe


@pytest.mark.parametrize(
    ("text", "images", "told"),
    [
        ("", "some", "--synthetic: found 'some'; must be a valid integer"),
        ("", "1", "--synthetic: found 1; must be greater than or equal to 2"),
        ("final: {feed: 7}", "96", "recipe.yaml:1: final.feed: found 7; must be an object"),
        ("scoring: {terms: [{term: labels}]}", "96", "scoring: found {'terms': [{'term': 'labels"),
    ],
)
def test_synthetic_images_that_cannot_be_made(
    tmp_path: Path, text: str, images: str, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, text), {"synthetic": images})
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "readers"),
    [
        ({}, ("alpha",)),
        ({"alpha": {"linear": [0, 0.1]}}, ("alpha",)),
        ({"terms": [{"term": "kl"}, {"term": "labels", "weight": 0}]}, ()),
        ({"terms": [{"term": "dkd"}, {"term": "exits"}, {"term": "dkd"}]}, ("dkd", "exits")),
        ({"stages": [{"until": 0.5, "alpha": 0}, {"until": 1}]}, ("alpha",)),
        ({"alpha": 0, "examples": {"by": "correct_only"}}, ("examples: correct_only",)),
        ({"alpha": 0, "examples": {"by": "confident"}}, ()),
    ],
)
def test_what_reads_labels_is_named(values: dict[str, Any], readers: tuple[str, ...]) -> None:
    assert ObjectiveOptions.model_validate(values).label_readers() == readers
