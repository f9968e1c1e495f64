"""Terms on attention: maps against torchdistill's, matrices and values against plain formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import GREY, bound, compared, conv, former, loss_of, pictures, term
from numpy.typing import NDArray
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.losses.attention import AttentionMaps, AttentionRelations
from nasdistill.models import Classifier
from nasdistill.models.hooks import LayerError, summarise

Array = NDArray[np.float64]
RGB = Input(3, 16, 16)
IMAGES = pictures(4)


def plain(loss: str, s: Array, t: Array) -> float:
    """One row against another."""
    if loss == "mse":
        return float(np.mean((s - t) ** 2))
    if loss == "kl":
        return float(sum(b * math.log(b / a) for a, b in zip(s, t, strict=True)))
    return 1.0 - float(s @ t) / math.sqrt(float(s @ s) * float(t @ t))


@pytest.mark.parametrize("loss", ["mse", "kl", "cosine"])
def test_maps_against_plain_sums(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 2, 3, generator=generator)
    teacher = torch.randn(3, 7, 2, 3, generator=generator)
    loss_B = compared(AttentionMaps(loss=loss), student, teacher)
    for example in range(3):
        rows = []
        for model in (student, teacher):
            row = (model[example].double() ** 2).sum(dim=0).flatten().numpy()
            if loss == "mse":
                row = row / math.sqrt(float(row @ row))
            rows.append(row / row.sum() if loss == "kl" else row)
        assert float(loss_B[example]) == pytest.approx(plain(loss, *rows), rel=1e-4)


def test_maps_are_torchdistills() -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 5, 5, generator=generator)
    teacher = torch.randn(3, 7, 5, 5, generator=generator)
    where = {"io": "output", "path": "it"}
    theirs = losses.ATLoss({"pair": {"teacher": where, "student": where}}, mode="code")
    expected = theirs({"it": {"output": student}}, {"it": {"output": teacher}})
    value = compared(AttentionMaps(), student, teacher).mean()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)


def heads_of(model: Classifier, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Query, key and value `[B, H, N, d]` of each block of one of our transformers."""
    net: Any = model.net
    parts = []
    with torch.no_grad():
        x = net.stem((images / 255 - 0.4) / 0.25).flatten(2).transpose(1, 2) + net.positions
        for block in net.blocks:
            inside, heads = block.norm1(x), block.attention.heads
            parts.append(
                tuple(
                    getattr(block.attention, name)(inside).unflatten(2, (heads, -1)).transpose(1, 2)
                    for name in "qkv"
                )
            )
            x = block(x)
    return parts  # type: ignore[return-value]


def scores(a: Tensor, b: Tensor) -> Array:
    """softmax(a bᵀ / √d), in double precision."""
    raw = (a.double() @ b.double().transpose(-2, -1)).numpy() / math.sqrt(a.shape[-1])
    powers = np.exp(raw - raw.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def mean_over_rows(loss: str, mine: Array, theirs: Array) -> list[float]:
    return [
        float(
            np.mean(
                [
                    [plain(loss, *rows) for rows in zip(a, b, strict=True)]
                    for a, b in zip(x, y, strict=True)
                ]
            )
        )
        for x, y in zip(mine, theirs, strict=True)
    ]


@pytest.mark.parametrize("loss", ["mse", "kl", "cosine"])
@pytest.mark.parametrize("heads", [2, 4])
def test_matrices_against_plain_formulas(heads: int, loss: str) -> None:
    student, teacher = former(2, 6, 3), former(heads, 8, 4, seed=1)
    made = term("attention", of="matrices", loss=loss, layers={0: 1, 2: [2, 3]})
    made = bound(made, student, teacher)
    loss_B = loss_of(made, student, teacher, IMAGES)
    mine, theirs = ([scores(q, k) for q, k, _ in heads_of(m, IMAGES)] for m in (student, teacher))
    if heads != 2:  # then what all heads say together is compared
        mine, theirs = ([x.mean(axis=1, keepdims=True) for x in side] for side in (mine, theirs))
    first = mean_over_rows(loss, mine[0], theirs[1])
    second = mean_over_rows(loss, mine[2], (theirs[2] + theirs[3]) / 2)
    worked = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert loss_B.detach().tolist() == pytest.approx(worked, rel=1e-3)


@pytest.mark.parametrize(("heads", "relations"), [(2, 2), (3, 2), (4, 2)])
def test_values_against_plain_formulas(heads: int, relations: int) -> None:
    """Width 24 of the student's, and 16, 24 or 32 of the teacher's, cut into as many heads."""
    student, teacher = former(2, 12, 1), former(heads, 8, 1, seed=1)
    made = bound(term("attention", of="values", loss="kl", layers={0: 0}), student, teacher)
    loss_B = loss_of(made, student, teacher, IMAGES)
    sides = []
    for model in (student, teacher):
        ((_, _, value),) = heads_of(model, IMAGES)
        joined = value.transpose(1, 2).flatten(2)  # [B, N, D]
        cut = torch.stack(joined.chunk(relations, dim=2), dim=1)
        sides.append(scores(cut, cut))
    assert loss_B.detach().tolist() == pytest.approx(mean_over_rows("kl", *sides), rel=1e-3)


def test_widths_with_no_common_part_meet_in_one_relation() -> None:
    student, teacher = former(3, 5, 1), former(2, 8, 1, seed=1)  # 15 and 16
    made = bound(term("attention", of="values", loss="mse"), student, teacher)
    assert loss_of(made, student, teacher, IMAGES).isfinite().all()
    ((_, _, mine),), ((_, _, theirs),) = heads_of(student, IMAGES), heads_of(teacher, IMAGES)
    sides = [scores(x, x) for x in (y.transpose(1, 2).flatten(2)[:, None] for y in (mine, theirs))]
    loss_B = loss_of(made, student, teacher, IMAGES).detach()
    assert loss_B.tolist() == pytest.approx(mean_over_rows("mse", *sides), rel=1e-3)


def library_vit(**options: Any) -> nn.Module:
    library = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    model: nn.Module = library.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=3, **options
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_a_class_token_is_left_out_where_the_student_has_none() -> None:
    student, teacher = former(2, 6, 2, input=RGB), library_vit()
    images = pictures(4, RGB)
    made = term("attention", of="matrices", loss="kl", layers={1: 1})
    assert isinstance(made, AttentionRelations)
    made = bound(made, student, teacher, RGB)
    shown = Classifier(teacher, (0.4,) * 3, (0.25,)).eval()
    loss_B = loss_of(made, student, shown, images).detach()

    from nasdistill.models.hooks import forward

    block: Any = teacher.get_submodule("blocks.1.attn")
    with torch.no_grad():
        read = forward(shown, images, ["blocks.1.attn.q_norm", "blocks.1.attn.k_norm"]).features
    assert block.num_heads == 2
    whole = scores(read["blocks.1.attn.q_norm"], read["blocks.1.attn.k_norm"])
    assert whole.shape[-1] == 17
    patches = whole[..., 1:, 1:]
    patches = patches / patches.sum(axis=-1, keepdims=True)
    q, k, _ = heads_of(student, images)[1]
    assert loss_B.tolist() == pytest.approx(mean_over_rows("kl", scores(q, k), patches), rel=1e-3)


def test_a_class_token_of_the_student_alone_is_left_out_too() -> None:
    student, teacher = library_vit(), former(2, 6, 2, input=RGB)
    made = bound(term("attention", of="matrices", loss="kl", layers={1: 1}), student, teacher, RGB)
    assert isinstance(made, AttentionRelations) and made.pairs[0].left_out == (1, 0)
    shown = Classifier(student, (0.4,) * 3, (0.25,)).eval()
    assert loss_of(made, shown, teacher, pictures(4, RGB)).isfinite().all()


def test_kl_of_attention_has_a_gradient_however_small_a_probability() -> None:
    """The slope by a score is the student's probability less the teacher's: 1 - 0.1."""
    gap = torch.tensor(30.0, requires_grad=True)
    query, value = torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)
    keys = torch.stack([gap, torch.zeros(())]), torch.tensor([0.0, math.log(9.0)])
    attention = AttentionRelations(of="matrices", loss="kl")
    mine, theirs = attention._relations([(query, key.view(1, 1, 2, 1), value) for key in keys])
    (slope,) = torch.autograd.grad(attention._compare(mine, theirs).sum(), gap)
    assert float(slope) == pytest.approx(0.9, rel=1e-5)


def test_class_tokens_on_both_sides_are_compared_too() -> None:
    student, teacher = library_vit(), library_vit(mlp_ratio=2)
    made = bound(term("attention", of="matrices", loss="mse"), student, teacher, RGB)
    images = pictures(4, RGB).float() / 255
    assert float(loss_of(made, student.eval(), student, images).detach().max()) < 1e-6
    assert float(loss_of(made, student.eval(), teacher.eval(), images).detach().min()) > 1e-7


@pytest.mark.parametrize("of", ["matrices", "values"])
def test_refused_where_there_is_nothing_to_compare(of: str) -> None:
    made = term("attention", of=of)
    with pytest.raises(LayerError, match=f"the student has no attention layers, so it has no {of}"):
        bound(made, conv(), former())
    with pytest.raises(LayerError, match="the teacher has no attention layers.*of: maps"):
        bound(made, former(), conv())
    with pytest.raises(LayerError, match="16 tokens at blocks.0.attention of the student, 64 at"):
        bound(made, former(), former(tokens=8))
    with pytest.raises(LayerError, match=r"64 at .* of the teacher \(1 and 0 of them special\)"):
        bound(made, library_vit(), former(input=RGB, tokens=8), RGB)
    with pytest.raises(LayerError, match="one patch at .* of the student, which attends to itself"):
        bound(made, former(tokens=1), former(tokens=1))
    with pytest.raises(LayerError, match="attention needs a teacher whose layers can be read"):
        made.bind(summarise(former(), "student", GREY), None)
    with pytest.raises(LayerError, match="has no attention layer '5'; it has 0 blocks.0.attention"):
        bound(term("attention", of=of, layers={0: 5}), former(), former())


def test_layers_are_numbered_or_named() -> None:
    made = term(
        "attention", of="matrices", layers={"blocks.1.attention": 2, 0: "blocks.0.attention"}
    )
    bound_term = bound(made, former(depth=2), former(depth=3))
    assert bound_term.student_layers[0] == "blocks.1.attention.q"
    assert bound_term.teacher_layers[0] == "blocks.2.attention.q"
    assert bound_term.teacher_layers[3] == "blocks.0.attention.q"
