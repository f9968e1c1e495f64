from __future__ import annotations

import json
import random
import warnings
from typing import Any

import pytest
import torch
from model_helpers import Shuffled

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models import build
from nasdistill.models.counts import count_architecture
from nasdistill.models.families import register_nets
from nasdistill.models.limits import check_size
from nasdistill.models.pruned_space import pruned_space, smallest
from nasdistill.space import Architecture, SearchSpace

INPUT = Input(1, 16, 16)
BLOCK = {"type": "basic"}
BASE = {
    "family": "resnet",
    "values": {
        "stem": {"type": "conv3", "width": 16},
        "stages": [
            {"block": BLOCK, "width": 16, "depth": 2},
            {"block": BLOCK, "width": 32, "depth": 3},
        ],
    },
}
RESNET = Architecture("resnet", BASE["values"])  # type: ignore[arg-type]


def pruned(**keep: Any) -> Architecture:
    return Architecture("pruned", {"base": BASE, "keep": keep})


def cut_often(times: int) -> dict[str, Any]:
    values: dict[str, Any] = {"base": BASE, "keep": {}}
    for _ in range(times - 1):
        values = {"base": {"family": "pruned", "values": values}, "keep": {}}
    return values


def test_a_net_that_was_cut_is_cut_further_and_stands_alone() -> None:
    once = pruned(width=0.5, stages=[{}, {"depth": 2}])
    made = pruned_space(SearchSpace.load("pruned"), once, INPUT, 3)
    # Half of 16 and 32 channels, and what is left of the blocks.
    cuts = {axis.name: (axis.least, axis.most, axis.whole) for axis in made.axes}
    assert cuts["stages.1.depth"] == (1, 2, 2)
    assert cuts["stages.1.outer"] == (8, 16, 16)
    half = {"width": 0.5, "stages": [{}, {"depth": 1}]}
    values = {"base": {"family": "pruned", "values": once.values}, "keep": half}
    architecture = Architecture.from_json(Architecture("pruned", values).to_json())
    net = build(architecture, INPUT, 3)
    assert net.get_parameter("stage1.0.body.0.weight").shape[0] == 8
    names = [n for n, _ in net.named_parameters() if n.startswith("stage1")]
    assert names and all(name.startswith("stage1.0.") for name in names)
    assert net.eval()(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    build(Architecture("pruned", cut_often(8)), INPUT, 3)


def test_a_cut_resnet_is_built_with_the_names_of_its_base() -> None:
    whole, net = (
        build(RESNET, INPUT, 3),
        build(pruned(stages=[{"outer": 0.5}, {"inner": 0.5, "depth": 2}]), INPUT, 3),
    )
    names = [name for name, _ in whole.named_parameters() if not name.startswith("stage1.2.")]
    assert [name for name, _ in net.named_parameters()] == names
    assert net.get_parameter("stage0.0.body.0.weight").shape == (16, 8, 3, 3)
    assert net.get_parameter("stage1.1.body.0.weight").shape == (16, 32, 3, 3)
    assert net.eval()(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_its_counts_are_those_of_the_built_net() -> None:
    architecture = pruned(stages=[{"outer": 0.5, "inner": 0.5}])
    net = build(architecture, INPUT, 3)
    counts = count_architecture(architecture, INPUT, 3)
    assert counts.params == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": BASE}, "base and keep are expected"),
        ({"base": BASE, "keep": {}, "more": 1}, "base and keep are expected"),
        ({"base": {"family": "pruned", "values": {}}, "keep": {}}, "base and keep are expected"),
        (cut_often(9), "it was cut more than 8 times"),
        ({"base": {"family": "resnet"}, "keep": {}}, "with family and values alone"),
        ({"base": {"family": "nose", "values": {}}, "keep": {}}, "unknown family 'nose'"),
        ({"base": BASE, "keep": {"stages": [{"outer": 1.5}]}}, "found 1.5, allowed: above 0"),
        ({"base": BASE, "keep": {"stages": [{"depth": 0}]}}, "depth: found 0, allowed: 1 to 2"),
        ({"base": BASE, "keep": []}, "keep: an object is expected"),
    ],
)
def test_a_strangers_file_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_size(Architecture("pruned", values), INPUT, 3, "a file")


def test_a_net_of_ones_own_needs_its_file() -> None:
    base = {"family": "import", "values": {"name": "mine"}}
    architecture = Architecture("pruned", {"base": base, "keep": {"stages": [{"outer": 0.5}]}})
    with pytest.raises(UserError, match=r"what mine\(\) of a user's own file gives; .*--import"):
        build(architecture, INPUT, 3)
    register_nets({"mine": lambda classes, input: build(RESNET, input, classes)})
    assert build(architecture, INPUT, 3).get_parameter("stem.0.0.weight").shape[0] == 8


def test_the_space_of_a_resnet() -> None:
    made = pruned_space(SearchSpace.load("pruned"), RESNET, INPUT, 3)
    cuts = {axis.name: (axis.least, axis.most, axis.whole) for axis in made.axes}
    assert cuts == {
        "stages.0.outer": (8, 16, 16),
        "stages.0.inner": (16, 32, 32),  # two blocks
        "stages.0.depth": (1, 2, 2),
        "stages.1.outer": (8, 32, 32),
        "stages.1.inner": (24, 96, 96),  # three blocks
        "stages.1.depth": (1, 3, 3),
    }
    # Eight widths; five shares of it on each of four axes; 1 or 2 blocks, and 1 to 3.
    assert made.space.count() == 8 * 5**4 * 2 * 3
    assert [design["keep.width"] for design in made.space.start] == [0.75, 0.5, 0.375, 0.25, 0.125]
    assert made.left_whole == {}


def test_the_space_draws_nets_that_can_be_built_and_are_no_larger() -> None:
    space = pruned_space(SearchSpace.load("pruned"), RESNET, INPUT, 3).space
    whole = count_architecture(RESNET, INPUT, 3).params
    least = count_architecture(smallest(space)[0], INPUT, 3).params
    for seed in range(5):
        params = count_architecture(space.random(random.Random(seed)), INPUT, 3).params
        assert least <= params <= whole


def test_a_stored_tree_is_the_same_space() -> None:
    template = SearchSpace.load("pruned")
    space = pruned_space(template, RESNET, INPUT, 3).space
    again = template.with_tree_of(json.loads(json.dumps(space.to_dict())))
    assert again.fingerprint == space.fingerprint
    assert again.start == space.start
    rng = random.Random(1), random.Random(1)
    assert again.random(rng[0]) == space.random(rng[1])


def test_a_narrowed_space() -> None:
    text = """\
name: narrow
family: pruned
keep:
  width: 1.0
  outer: 1.0
  inner: {float: [0.5, 1.0], step: 0.25}
  stages:
    1: {inner: 0.5, depth: 2}
"""
    space = pruned_space(SearchSpace.from_yaml(text, "x.yaml"), RESNET, INPUT, 3).space
    keep = space.to_dict()["parameters"]["keep"]
    assert keep["width"] == 1.0
    assert keep["stages"][1] == {"outer": 1.0, "inner": 0.5, "depth": 2}
    assert keep["stages"][0]["inner"] == {"float": [0.5, 1.0], "log": False, "step": 0.25}
    with pytest.raises(UserError, match=r"keep.stages.4: the net has 2 stages, 0 to 1"):
        late = SearchSpace.from_yaml(text.replace("    1:", "    4:"), "x.yaml")
        pruned_space(late, RESNET, INPUT, 3)


def test_what_cannot_be_cut_stays_whole_in_every_architecture() -> None:
    register_nets({"shuffled": lambda classes, input: Shuffled(1, 3)})
    base = Architecture("import", {"name": "shuffled"})
    made = pruned_space(SearchSpace.load("pruned"), base, INPUT, 3)
    (least,) = smallest(made.space)
    assert list(made.left_whole) == least.values["keep"]["whole"] == ["first"]
    net = build(least, INPUT, 3)
    assert net.get_parameter("first.weight").shape[0] == 32
    assert net.get_parameter("second.weight").shape[0] == 8
    assert made.space.with_tree_of(made.space.to_dict()).fingerprint == made.space.fingerprint


def test_a_net_with_nothing_to_cut() -> None:
    mlp = Architecture("mlp", {"activation": "relu", "dropout": 0.0, "layers": {"widths": [8]}})
    with warnings.catch_warnings(), pytest.raises(UserError, match="nothing can be cut"):
        pruned_space(SearchSpace.load("pruned"), mlp, INPUT, 3)


@pytest.mark.parametrize("width", ["0.5", "{choice: [0.5]}"])
def test_a_width_that_a_yaml_fixes_is_a_plain_number(width: str) -> None:
    """What the reader of YAML gives knows how it was written, and is no plain float."""
    text = f"name: half\nfamily: pruned\ndescription: d\nkeep: {{width: {width}}}\n"
    space = pruned_space(SearchSpace.from_yaml(text, "x.yaml"), RESNET, INPUT, 3).space
    architecture = space.random(random.Random(0))
    assert type(architecture.values["keep"]["width"]) is float
    assert build(architecture, INPUT, 3).eval()(torch.rand(2, 1, 16, 16)).shape == (2, 3)


def test_grey_pictures_and_a_net_of_colour() -> None:
    pytest.importorskip("timm")
    base, space = Architecture("timm", {"name": "test_resnet"}), SearchSpace.load("pruned")
    with pytest.raises(UserError, match=r"takes images of 3 channels, the data have 1; --chann"):
        pruned_space(space, base, Input(1, 32, 32), 3)
    assert pruned_space(space, base, Input(3, 32, 32), 3).axes
