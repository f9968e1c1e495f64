"""Where students begin: fresh, or with weights of their own."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained_space import EFFICIENT, RESIDUAL, SPACE, prepare_pretrained, write_weights
from safetensors.torch import load_file
from small_study import OpenContext
from torch import Tensor

from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.models import build
from nasdistill.space import Architecture
from nasdistill.training import seed_weights
from nasdistill.trials.proposals import propose
from nasdistill.trials.rung import start_run

NET = Architecture("pretrained", {"model": EFFICIENT})
AWAY = """\
name: own
family: pretrained
parameters:
  model: {choice: [torchvision:mobilenet_v3_small, timm:test_efficientnet, timm:lcnet_050]}
weights: {timm:test_efficientnet: weights/efficient.safetensors}
"""


@pytest.fixture
def begun(here: Path, opened: OpenContext) -> OpenContext:
    """Opens the small study on two pretrained nets."""
    prepare_pretrained(here)
    return opened


def cut_off(*_: Any, **__: Any) -> Any:
    raise urllib.error.URLError("no connection")


def head_and_rest(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    names = {name: name.removeprefix("net.").removeprefix("net.") for name in state}
    tensors = {names[name]: state[name] for name in state if name not in ("mean", "std")}
    head = {name: value for name, value in tensors.items() if name.startswith("classifier.")}
    return head, {name: value for name, value in tensors.items() if name not in head}


def test_pretrained_students_have_the_files_weights_and_a_head_of_their_own(
    begun: OpenContext,
) -> None:
    context = begun()
    assert context.recipe.begin == context.scoring.beginning.kind == "pretrained"
    (student,) = context.scoring.students(NET, context.dataset, 0)
    assert student.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    head, rest = head_and_rest(student.state_dict())
    file = load_file("weights/efficient.safetensors")
    assert rest and all(torch.equal(value, file[name]) for name, value in rest.items())
    assert head["classifier.weight"].shape == (3, 256) and file["classifier.weight"].shape[0] == 5
    (again,), (other,) = (context.final.students(NET, context.dataset, seed) for seed in (0, 1))
    same, another = (head_and_rest(each.state_dict())[0] for each in (again, other))
    assert torch.equal(same["classifier.weight"], head["classifier.weight"])
    assert not torch.equal(another["classifier.weight"], head["classifier.weight"])
    with torch.inference_mode():
        logits = student.eval()(context.dataset.score.images[:2])  # grey, for a net of colour
    assert logits.shape == (2, 3)


def test_students_that_teach_each_other_differ_in_their_heads(begun: OpenContext) -> None:
    terms = [{"term": "labels"}, {"term": "kl", "teacher": "pair"}]
    setup = begun(teachers={"pair": {"peers": 2}}, final={"terms": terms}).final
    heads = [
        head_and_rest(each.state_dict())[0]["classifier.weight"]
        for each in setup.students(NET, setup.stream.dataset, 0)
    ]
    assert len(heads) == 2 and not torch.equal(*heads)


def test_fresh_is_what_the_family_builds(begun: OpenContext) -> None:
    context = begun(begin="fresh")
    data = context.dataset
    (student,) = context.scoring.students(NET, data, 3)
    seed_weights(3, NET.fingerprint)
    net = build(NET, data.input, 3)
    assert all(torch.equal(a, b) for a, b in zip(student.net.parameters(), net.parameters()))  # noqa: B905
    assert student.mean.flatten().tolist() == pytest.approx(list(data.mean))
    assert context.recipe.rate() == 0.008
    control = begun(study="other").final.begun_fresh()
    (same,) = control.students(NET, data, 3)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), student.parameters()))  # noqa: B905


def test_the_learning_rate_follows_where_they_begin(begun: OpenContext) -> None:
    context = begun()
    number = propose(context)
    assert number is not None

    def peak(setup: Any) -> float:
        candidate = context.study.candidate(number)
        return start_run(context, setup, candidate, 0, None).lr_schedule.peak

    assert peak(context.scoring) == 0.001
    assert peak(context.scoring.begun_fresh()) == 0.008
    assert begun(study="given", learning_rate=0.02).recipe.rate("fresh") == 0.02


def test_weights_that_cannot_be_had_are_named_before_the_teacher_is_loaded(
    begun: OpenContext, events: list[Event], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("own.yaml").write_text(AWAY)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", cut_off)
    with pytest.raises(UserError) as caught:
        begun(max_params=None, max_macs="1G")
    message = str(caught.value)
    assert "2 of its models" in message and "no connection" in message
    assert "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth" in message
    assert "timm:lcnet_050: https://huggingface.co/timm/lcnet_050" in message
    assert "weights: {'torchvision:mobilenet_v3_small': FILE}" in message
    assert "narrow the space to model: {choice: ['timm:test_efficientnet']}" in message
    assert not any("teacher bars" in event.text for event in events)


def test_models_beyond_a_named_limit_need_no_weights(
    begun: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.yaml").write_text(AWAY)
    monkeypatch.setattr(torch.hub, "urlopen", cut_off)
    context = begun(max_params=200_000)
    assert list(context.study.attributes["first_weights"]) == [EFFICIENT]


def test_models_that_cannot_take_the_images_are_named(
    begun: OpenContext, events: list[Event]
) -> None:
    Path("own.yaml").write_text(AWAY.replace("timm:lcnet_050", "torchvision:squeezenet1_1"))
    context = begun(max_params=200_000)
    warning = next(event.text for event in events if "too small" in event.text)
    assert "16x16 are too small for torchvision:squeezenet1_1" in warning
    assert list(context.study.attributes["first_weights"]) == [EFFICIENT]


def test_files_that_do_not_fit_or_have_changed(begun: OpenContext) -> None:
    file = Path("weights/residual.safetensors")
    context = begun()
    stored = context.study.attributes["first_weights"]
    assert list(stored) == [EFFICIENT, RESIDUAL] and "residual.safetensors" in stored[RESIDUAL]
    whole = file.read_bytes()
    write_weights(file, RESIDUAL, seed=1)
    with pytest.raises(UserError, match="the weights of timm:test_resnet are not those"):
        begun()
    file.write_bytes(whole)
    begun()
    file.unlink()
    with pytest.raises(UserError, match=r"weights: weights/residual.safetensors cannot be read"):
        begun()
    write_weights(file, EFFICIENT)
    with pytest.raises(UserError, match=r"residual.safetensors.*another architecture"):
        begun(study="new")


def test_where_a_full_run_begins_is_part_of_its_setting(begun: OpenContext) -> None:
    def setting(study: str, **options: Any) -> str:
        context = begun(study=study, **options)
        return str(context.study.attributes["experience"]["setting"])

    names = [setting("one"), setting("two"), setting("three", begin="fresh")]
    write_weights(Path("weights/residual.safetensors"), RESIDUAL, seed=1)
    names.append(setting("four"))
    assert names[0] == names[1] and len(set(names)) == 3


def test_begin_is_refused_where_there_is_nothing_to_begin_with(opened: OpenContext) -> None:
    with pytest.raises(UserError, match="--begin pretrained: .* no weights.*allowed: fresh"):
        opened(begin="pretrained")
    with pytest.raises(UserError, match="--begin teacher: .* not cut from.*allowed: fresh"):
        opened(begin="teacher")
    context = opened()
    assert context.recipe.begin == "fresh" and context.recipe.rate() == 0.008
    assert context.study.attributes["recipe"]["begin"] == "fresh"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("family: pretrained", "family: mlp", r"own.yaml:6: weights: the family 'mlp' has no"),
        (f"  {RESIDUAL}: w", "  timm:test_resnets: w", r"own.yaml:8: .*unknown model.*mean 'timm"),
        ("weights/residual.safetensors", "[]", r"own.yaml:8: .*found .*the path of a file"),
    ],
)
def test_weights_of_a_space_that_are_wrong(
    begun: OpenContext, old: str, new: str, reason: str
) -> None:
    assert old in SPACE
    Path("own.yaml").write_text(SPACE.replace(old, new))
    with pytest.raises(UserError, match=reason):
        begun()
