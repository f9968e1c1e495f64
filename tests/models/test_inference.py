"""The way a model is run on large pictures: probed, within bounds of memory, the same answers."""

from __future__ import annotations

import pytest
import torch
from model_helpers import conv
from torch import Tensor, nn

from nasdistill.models.inference import (
    MOST_BYTES,
    WHOLE,
    Inference,
    fastest_inference,
    has_channels_last,
    most_images,
    set_layout,
)

LARGE = torch.zeros(1, 1, 96, 96, dtype=torch.uint8)


def clock(seconds: dict[tuple[int, bool], float], seen: list[tuple[int, bool]]):  # type: ignore[no-untyped-def]
    """A clock that tells given seconds per image, 1 where none are given."""

    def time_pass(module: nn.Module, images: Tensor) -> float:
        way = (len(images), has_channels_last(module))
        seen.append(way)
        return seconds.get(way, 1.0) * len(images)

    return time_pass


def test_small_pictures_are_not_probed() -> None:
    seen: list[tuple[int, bool]] = []
    small = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    assert fastest_inference(conv().eval(), small, time_pass=clock({}, seen)) == WHOLE
    assert not seen


def test_the_quickest_batch_and_layout_win() -> None:
    seen: list[tuple[int, bool]] = []
    seconds = {(16, True): 0.5, (32, True): 0.4, (64, True): 0.39}
    module = conv().eval()
    inference = fastest_inference(module, LARGE, both_layouts=True, time_pass=clock(seconds, seen))
    assert inference == Inference(32, True)  # 64 are hardly quicker
    assert has_channels_last(module)
    assert seen == [(16, False), (32, False), (16, True), (32, True), (64, True)]


def test_where_both_are_as_quick_the_smaller_and_the_own_layout_are_taken() -> None:
    module = conv().eval()
    assert fastest_inference(
        module, LARGE, both_layouts=True, time_pass=clock({}, [])
    ) == Inference(16, False)
    assert not has_channels_last(module)


def test_one_that_learns_keeps_its_layout() -> None:
    module = conv().to(memory_format=torch.channels_last).eval()
    seen: list[tuple[int, bool]] = []
    assert fastest_inference(module, LARGE, time_pass=clock({}, seen)).channels_last
    assert {layout for _, layout in seen} == {True}


class Wide(nn.Module):
    """Its inner tensor takes `size` bytes an image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(1, size // 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.float().mean(dim=(1, 2, 3))[:, None])[:, :3]


@pytest.mark.parametrize(("share", "most"), [(40, 40), (3, 3), (0.5, 1)])
def test_no_pass_is_larger_than_memory_allows(share: float, most: int) -> None:
    module = Wide(int(MOST_BYTES / share)).eval()
    assert most_images(module, LARGE) == most
    seen: list[tuple[int, bool]] = []
    ever_faster = {(n, False): 1 / n for n in (16, 32, 64, 128, 500)}
    inference = fastest_inference(module, LARGE, time_pass=clock(ever_faster, seen))
    assert inference.batch == {40: 32, 3: 2, 1: 1}[most]
    assert max(n for n, _ in seen) == inference.batch


def test_answers_are_the_same_in_any_layout() -> None:
    module = conv((16, 32, 16)).eval()
    images = torch.randint(0, 256, (6, 1, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        before = module(images)
        set_layout(module, Inference(16, True))
        assert has_channels_last(module)
        assert torch.allclose(module(images), before, atol=1e-5)
