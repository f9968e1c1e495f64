"""The space language: reading, refusals, draws."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.common.errors import UserError
from nasdistill.space import Architecture, SearchSpace
from nasdistill.space.nodes import parameters_of

SHIPPED = ("mlp", "mobile", "pretrained", "resnet", "vit")

SMALL = """\
name: small
family: mlp
description: Every kind of node.
parameters:
  fixed: 7
  wide: {int: [4, 12], step: 4}
  deep: {int: [1, 3], log: true}
  block:
    choice:
      plain:
      nested:
        kernel: {choice: [3, 5]}
        gate: {choice: [true, false]}
  row: [{choice: [a, b]}, 1]
"""


def errors_of(text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        SearchSpace.from_yaml(text, "own.yaml")
    return str(caught.value).splitlines()


def space_of(parameters: str) -> str:
    return f"name: own\nfamily: mlp\nparameters:\n  {parameters}\n"


class Enumerate:
    """Takes the options that a list of indices says; remembers how many there were."""

    def __init__(self, indices: list[int]) -> None:
        self.indices, self.counts = indices, [0] * 0

    def _pick(self, options: list[Any]) -> Any:
        place = len(self.counts)
        self.counts.append(len(options))
        return options[self.indices[place] if place < len(self.indices) else 0]

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._pick(list(range(low, high + 1, step))))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        raise AssertionError("no floats here")

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._pick(list(choices))


def every_architecture(space: SearchSpace) -> list[str]:
    """Depth first through all decisions, as an odometer whose wheels depend on one another."""
    texts, indices = [], [0] * 0
    while True:
        draw = Enumerate(indices)
        texts.append(space.sample(draw).to_json())
        indices = (indices + [0] * len(draw.counts))[: len(draw.counts)]
        while indices and indices[-1] + 1 == draw.counts[len(indices) - 1]:
            indices.pop()
        if not indices:
            return texts
        indices[-1] += 1


def test_shipped_names() -> None:
    assert SearchSpace.shipped() == tuple(sorted((*SHIPPED, "pruned")))  # made from a net


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_samples_survive_json(name: str, seed: int) -> None:
    architecture = SearchSpace.load(name).random(random.Random(seed))
    text = architecture.to_json()
    again = Architecture.from_json(text)
    assert again == architecture
    assert again.fingerprint == architecture.fingerprint
    shuffled = json.dumps(dict(reversed(json.loads(text).items())), indent=3)
    assert Architecture.from_json(shuffled).fingerprint == architecture.fingerprint
    assert len(architecture.fingerprint) == 16


@given(
    st.recursive(
        st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_value_survives(value: Any) -> None:
    architecture = Architecture("own", {"value": value})
    again = Architecture.from_json(architecture.to_json())
    assert again.fingerprint == architecture.fingerprint and again == architecture


def test_fingerprint_tells_architectures_apart() -> None:
    one, two = Architecture("mlp", {"a": 1}), Architecture("mlp", {"a": 2})
    assert len({one.fingerprint, two.fingerprint, Architecture("vit", {"a": 1}).fingerprint}) == 3
    assert one.to_json() == '{"family":"mlp","values":{"a":1}}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "an object"),
        ('{"family": "mlp"}', "alone"),
        ('{"family": "mlp", "values": {}, "code": 1}', "alone"),
        ('{"family": 3, "values": {}}', '"family" must be a text'),
        ('{"family": "mlp", "values": []}', '"values" an object'),
    ],
)
def test_malformed_architecture(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Architecture.from_json(text)


def test_count_against_brute_force() -> None:
    space = SearchSpace.from_yaml(SMALL, "small.yaml")
    texts = every_architecture(space)
    assert len(texts) == len(set(texts)) == space.count() == 3 * 3 * (1 + 2 * 2) * 2
    values = json.loads(texts[0])["values"]
    assert values == {"fixed": 7, "wide": 4, "deep": 1, "block": {"type": "plain"}, "row": ["a", 1]}
    rng = random.Random(0)
    assert {space.random(rng).to_json() for _ in range(3000)} == set(texts)


def test_count_of_shipped_mlp_and_of_a_float() -> None:
    assert SearchSpace.load("mlp").count() == 2 * 3 * (6 + 6 * 5 + 6 * 5 * 4)
    own = SearchSpace.from_yaml(space_of("rate: {float: [0.1, 1.0], log: true}"), "own.yaml")
    assert own.count() is None
    rate = own.random(random.Random(1)).values["rate"]
    assert 0.1 <= rate <= 1.0


def test_optuna_draws_with_dotted_names() -> None:
    space = SearchSpace.from_yaml(SMALL, "small.yaml")
    fixed = {
        "wide": 8,
        "deep": 2,
        "block": "nested",
        "block.nested.kernel": 5,
        "block.nested.gate": False,
        "row.0": "b",
    }
    drawn = space.sample(optuna.trial.FixedTrial(fixed))
    assert drawn.values["block"] == {"type": "nested", "kernel": 5, "gate": False}
    assert drawn.values["row"] == ["b", 1]
    for name in SHIPPED:
        trial = optuna.create_study().ask()
        Architecture.from_json(SearchSpace.load(name).sample(trial).to_json())
        assert trial.params


def test_tree_and_dict_name_every_parameter() -> None:
    space = SearchSpace.from_yaml(SMALL, "small.yaml")
    lines = space.tree()
    assert lines[0] == "small (family mlp): Every kind of node."
    assert "  wide: 4 to 12, step 4" in lines
    assert "  deep: 1 to 3, logarithmic" in lines
    assert "      kernel: 3 | 5" in lines
    assert space.to_dict()["parameters"]["row"] == [{"choice": ["a", "b"]}, 1]
    json.dumps(space.to_dict())


def test_fingerprint_of_a_space_is_its_content() -> None:
    space = SearchSpace.from_yaml(SMALL, "a.yaml")
    renamed = SearchSpace.from_yaml(SMALL.replace("name: small", "name: other"), "b.yaml")
    wider = SearchSpace.from_yaml(SMALL.replace("[4, 12]", "[4, 16]"), "a.yaml")
    assert space.fingerprint == renamed.fingerprint != wider.fingerprint


# -- refused ------------------------------------------------------------------------------------


def test_several_errors_at_once_with_line_and_nearest_name() -> None:
    text = """\
name: own
familly: mlp
parameters:
  wide: {int: [12, 4]}
  deep:
    int: [1, 8]
    stepp: 2
  block:
    choice:
      plain: 3
  act: {choice: [relu, relu]}
"""
    errors = errors_of(text)
    assert len(errors) == 6
    assert errors[0].startswith("own.yaml:2: familly: unknown key; did you mean 'family'?")
    assert errors[1].startswith("own.yaml:") and "family: this key is missing" in errors[1]
    assert errors[2].startswith("own.yaml:4: parameters.wide.int: found [12, 4]")
    assert "low <= high" in errors[2]
    assert errors[3].startswith("own.yaml:7: parameters.deep.stepp: unknown key")
    assert "did you mean 'step'?" in errors[3]
    assert errors[4].startswith("own.yaml:10: parameters.block.choice.plain: found 3")
    assert errors[5].startswith("own.yaml:11: parameters.act.choice: found ['relu', 'relu']")
    assert all("allowed: " in line for line in errors)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("a: {int: [1]}", r"\[low, high\]"),
        ("a: {int: [1.5, 2]}", "whole numbers"),
        ("a: {int: [true, 2]}", "whole numbers"),
        ("a: {int: [1, 8], step: 2}", "a divisor of 7"),
        ("a: {int: [1, 8], step: 0}", "a whole number from 1"),
        ("a: {int: [0, 8], log: true}", "low > 0"),
        ("a: {float: [0.0, 1.0], log: true}", "low > 0"),
        ("a: {float: [0.0, .inf]}", "numbers"),
        ("a: {float: [.nan, 1.0]}", "numbers"),
        ("a: {float: [low, 1.0]}", "numbers"),
        ("a: {choice: []}", "a list of values"),
        ("a: {choice: 3}", "a list of values"),
        ("a: {choice: [null, 1]}", "texts and finite numbers"),
        ("a: {choice: {one: [1, 2]}}", "names and nodes"),
        ("a: {choice: [1, 1.0]}", "a value twice"),
        ("a: {choice: [1, true]}", "a value twice"),
        ("a: {choice: [1, .nan]}", "texts and finite numbers"),
        ("a: {choice: {b.c: {x: 1}}}", "letters, digits, _"),
        ("a: {choice: {'': {x: 1}}}", "letters, digits, _"),
        ("a: []", "at least one node"),
        ("a: {}", "at least one node"),
        ("a: .inf", "a value, a node"),
        ("a:", "a value, a node"),
        ("type: {choice: [1, 2]}", "not type"),
        ("a.b: 3", "letters, digits, _"),
        ("a: &a {b: *a}", "holds itself|found None"),
        ("a: &a\n    b: *a", "holds itself|found None"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
)
def test_wrong_nodes(parameters: str, reason: str) -> None:
    errors = errors_of(space_of(parameters))
    assert len(errors) == 1 and errors[0].startswith("own.yaml:")
    assert re.search(reason, errors[0])


def test_empty_space() -> None:
    assert "the space is empty" in errors_of("name: a\nfamily: mlp\nparameters: {}\n")[0]
    missing = errors_of("")
    assert [line.split(": ")[1] for line in missing] == ["name", "family", "parameters"]
    assert "expected keys and values" in errors_of("- 1\n")[0]


def test_duplicate_keys_and_tags_and_bad_yaml() -> None:
    (twice,) = errors_of(space_of("a: 1\n  a: 2"))
    assert twice.startswith("own.yaml:5:") and "duplicate key" in twice
    (tag,) = errors_of(space_of("a: !!python/object/apply:os.system [ls]"))
    assert tag.startswith("own.yaml:4:") and "tag" in tag and "not allowed" in tag
    (broken,) = errors_of("name: [1\nfamily: mlp\n")
    assert broken.startswith("own.yaml:")


def test_load_by_name_and_path(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="did you mean 'mobile'.*shipped: mlp, mobile, pretrained, pruned, r"
    ):
        SearchSpace.load("mobil")
    with pytest.raises(UserError, match="cannot read the file"):
        SearchSpace.load(str(tmp_path / "none.yaml"))
    path = tmp_path / "own.yaml"
    path.write_text(SMALL)
    assert SearchSpace.load(str(path)).count() == 90
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the file"):
        SearchSpace.load(str(path))


def test_yaml_1_2_reads_no_as_a_word() -> None:
    space = SearchSpace.from_yaml(space_of("a: {choice: [no, yes, true]}"), "own.yaml")
    drawn = {json.dumps(space.random(random.Random(i)).values["a"]) for i in range(40)}
    assert drawn == {'"no"', '"yes"', "true"}


def test_lists_of_indices_are_all_tried() -> None:
    space = SearchSpace.from_yaml(space_of("a: [{int: [0, 2]}, {int: [0, 1]}]"), "own.yaml")
    values = [tuple(json.loads(text)["values"]["a"]) for text in every_architecture(space)]
    assert values == list(itertools.product(range(3), range(2)))


@pytest.mark.parametrize(
    ("key", "meant"), [("chioce", "choice"), ("itn", "int"), ("flaot", "float")]
)
def test_a_slip_in_a_nodes_key_is_not_a_group(key: str, meant: str) -> None:
    text = f"name: x\nfamily: mlp\nparameters:\n  width: {{{key}: [1, 2]}}\n"
    with pytest.raises(UserError, match=rf"x.yaml:4: parameters.width.{key}.*mean '{meant}'"):
        SearchSpace.from_yaml(text, "x.yaml")


@given(st.sampled_from((*SHIPPED, "small")), st.integers(0, 2**32))
@settings(max_examples=60)
def test_any_architecture_leads_back_to_its_parameters(name: str, seed: int) -> None:
    shipped = name in SHIPPED
    space = SearchSpace.load(name) if shipped else SearchSpace.from_yaml(SMALL, "small.yaml")
    architecture = space.random(random.Random(seed))
    parameters = parameters_of(space.root, json.loads(architecture.to_json())["values"])
    assert space.sample(optuna.trial.FixedTrial(parameters)).to_json() == architecture.to_json()


START = """\
start:
  - {fixed: 7, wide: 8, deep: 2, block: {type: nested, kernel: 5, gate: false}, row: [b, 1]}
  - {fixed: 7, wide: 12, deep: 1, block: {type: plain}, row: [a, 1]}
"""


def test_designs_to_try_first() -> None:
    space = SearchSpace.from_yaml(SMALL + START, "small.yaml")
    assert dict(space.start[0]) == {
        "wide": 8,
        "deep": 2,
        "block": "nested",
        "block.nested.kernel": 5,
        "block.nested.gate": False,
        "row.0": "b",
    }
    assert space.sample(optuna.trial.FixedTrial(dict(space.start[1]))).values["wide"] == 12
    assert space.fingerprint == SearchSpace.from_yaml(SMALL, "small.yaml").fingerprint
    assert "tried first: 2 plain designs" in space.tree()[-1]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_designs_are_in_their_spaces(name: str) -> None:
    space = SearchSpace.load(name)
    designs = [space.sample(optuna.trial.FixedTrial(dict(each))) for each in space.start]
    assert len({design.fingerprint for design in designs}) == len(space.start) >= 2


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("wide: 8", "wide: 9", "16: start.0.wide: found 9; allowed: 4 to 12 in steps of 4"),
        ("deep: 2", "deep: 4", "16: start.0.deep: found 4; allowed: 1 to 3"),
        ("deep: 2", "deep: true", "start.0.deep: found True; allowed: 1 to 3"),
        ("kernel: 5", "kernel: 4", "start.0.block.kernel: found 4; allowed: 3, 5"),
        ("gate: false", "gate: 0", "start.0.block.gate: found 0; allowed: True, False"),
        ("type: nested", "type: nest", "allowed: type: plain, nested; and what belongs to it"),
        ("type: plain", "type: plain, kernel: 3", "start.1.block: found {'kernel': 3}; allowed: "),
        ("fixed: 7, wide: 12", "wide: 12", "17: start.1: found {'wide': 12, "),
        ("fixed: 7, wide: 12", "fixed: 8, wide: 12", "start.1.fixed: found 8; allowed: 7"),
        ("[a, 1]", "[a]", "start.1.row: found ['a']; allowed: a list of 2"),
        ("[a, 1]", "a", "start.1.row: found 'a'; allowed: a list of 2"),
    ],
)
def test_designs_outside_the_space_are_refused(old: str, new: str, reason: str) -> None:
    assert START.count(old) == 1
    (error,) = errors_of(SMALL + START.replace(old, new))
    assert reason in error


def test_designs_must_be_a_list() -> None:
    (error,) = errors_of(SMALL + "start: {wide: 4}\n")
    assert "start: found {'wide': 4}; allowed: a list of architectures' values" in error
