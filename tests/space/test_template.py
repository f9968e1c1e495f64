from __future__ import annotations

import random

import pytest

from nasdistill.common.errors import UserError
from nasdistill.space import SearchSpace
from nasdistill.space.nodes import (
    Constant,
    Float,
    Group,
    NotInSpaceError,
    from_plain,
    parameters_of,
    plain,
)

STEPPED = """\
name: stepped
family: mlp
parameters:
  rate: {float: [0.1, 0.7], step: 0.2}
"""


def test_numbers_in_steps() -> None:
    space = SearchSpace.from_yaml(STEPPED, "x.yaml")
    assert space.count() == 4
    drawn = {space.random(random.Random(seed)).values["rate"] for seed in range(40)}
    assert drawn == {0.1, 0.3, 0.5, 0.7}
    assert space.tree()[1] == "  rate: 0.1 to 0.7, step 0.2"


def test_a_number_between_two_steps_is_not_in_the_space() -> None:
    node = Float(0.1, 0.7, step=0.2)
    assert parameters_of(Group({"rate": node}), {"rate": 0.1 + 0.2}) == {"rate": 0.3}
    with pytest.raises(NotInSpaceError) as caught:
        parameters_of(Group({"rate": node}), {"rate": 0.4})
    assert caught.value.allowed == "a number from 0.1 to 0.7 in steps of 0.2"


def test_a_stepped_range_is_read_again_from_its_plain_values() -> None:
    node = Float(0.25, 1.0, step=0.125)
    assert from_plain(plain(node)) == node
    assert plain(Float(0.0, 1.0)) == {"float": [0.0, 1.0], "log": False}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("step: 0.2", "step: 0", "x.yaml:4: parameters.rate.step: found 0"),
        ("step: 0.2", "step: 0.25", "x.yaml:4: parameters.rate.step: found 0.25"),
        ("step: 0.2", "step: 0.2, log: true", "a number above 0; none with log"),
    ],
)
def test_wrong_steps(old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSpace.from_yaml(STEPPED.replace(old, new), "x.yaml")
    assert message in str(caught.value)


TEMPLATE = """\
name: mine
family: pruned
base: timm:resnet18
keep:
  outer: {float: [0.25, 1.0], step: 0.25}
  depth: {int: [1, 3]}
  stages:
    2: {inner: 0.5}
"""


def test_a_template() -> None:
    space = SearchSpace.from_yaml(TEMPLATE, "x.yaml")
    assert space.needs_base
    template = space.template
    assert template is not None
    assert template.base == "timm:resnet18"
    assert template.node("outer", 0) == Float(0.25, 1.0, step=0.25)
    assert template.node("inner", 2) != template.node("inner", 1)


NAMED = """\
name: mine
family: pretrained
parameters:
  model: {choice: [timm:lcnet_050, timm:resnet18]}
keep:
  timm:resnet18: {width: {float: [0.25, 0.75], step: 0.25}, stages: {2: {inner: 0.5}}}
"""


def test_what_is_kept_of_named_nets() -> None:
    space = SearchSpace.from_yaml(NAMED, "x.yaml")
    assert space.needs_base and space.begins == ("pretrained", "fresh")
    assert space.models == ("timm:lcnet_050", "timm:resnet18")
    assert space.template is not None
    models = space.template.models
    residual = models["timm:resnet18"]
    assert models["timm:lcnet_050"] is None and residual is not None
    assert residual.node("width") == Float(0.25, 0.75, step=0.25)
    of_all = SearchSpace.from_yaml(NAMED.partition("  timm:resnet18: ")[0] + "  inner: 0.5\n", "x")
    assert of_all.template is not None
    assert (
        set(of_all.template.models) == set(models) and None not in of_all.template.models.values()
    )


def test_ratios_are_plain_numbers_however_they_are_written() -> None:
    for text, values in (("0.50", [0.5]), ("{choice: [0.50, 1.0]}", [0.5, 1.0])):
        space = SearchSpace.from_yaml(f"name: x\nfamily: pruned\nkeep: {{width: {text}}}\n", "x")
        assert space.template is not None
        node = space.template.node("width")
        options = [node.value] if isinstance(node, Constant) else list(node.options)  # type: ignore[union-attr]
        assert options == values and {type(value) for value in options} == {float}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  timm:resnet18:", "  timm:resnet19:", "x.yaml:6: keep.timm:resnet19: unknown model"),
        ("{width: {", "{widht: {", "x.yaml:6: keep.timm:resnet18.widht: unknown key"),
        ("[0.25, 0.75]", "[0.0, 0.75]", "x.yaml:6: keep.timm:resnet18.width: found {'float': [0.0"),
        ("{2: {", "{two: {", "keep.timm:resnet18.stages.two: found the key 'two'"),
        ("keep:", "start: [{model: timm:resnet18}]\nkeep:", "x.yaml:5: start: beside keep"),
        ("family: pretrained", "family: mlp", "x.yaml:5: keep: the family 'mlp' is not cut"),
    ],
)
def test_what_is_wrong_with_named_nets(old: str, new: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSpace.from_yaml(NAMED.replace(old, new), "x.yaml")
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[0.25, 1.0], step: 0.25", "[0.0, 1.0], step: 0.25", "x.yaml:5: keep.outer"),
        (", step: 0.25", "", "x.yaml:5: keep.outer: found no step"),
        ("[1, 3]", "[0, 3]", "x.yaml:6: keep.depth"),
        ("  depth", "  dept", "x.yaml:6: keep.dept: unknown key"),
        ("    2:", "    two:", "x.yaml:8: keep.stages.two"),
        ("inner: 0.5", "inner: 1.5", "x.yaml:8: keep.stages.2.inner: found 1.5; allowed"),
        ("base: timm:resnet18", "base: 7", "x.yaml:3: base: found 7"),
        ("base: timm:resnet18", "parameters: {a: 1}", "x.yaml:3: parameters: unknown key"),
    ],
)
def test_a_wrong_template(old: str, new: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSpace.from_yaml(TEMPLATE.replace(old, new), "x.yaml")
    assert line in str(caught.value)
