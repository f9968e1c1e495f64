"""Terms on attention: maps of features, and the attention of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import OnLayers, at_one_size, by_depth
from nasdistill.losses.options import LayerPairs, LayersOptions, TermOptions
from nasdistill.losses.qkv import QKV, AttentionLayer, attention_layers, attention_scores
from nasdistill.losses.term import Term
from nasdistill.models.hooks import LayerError, ModelSummary, Outputs

Loss = Literal["mse", "kl", "cosine"]


class AttentionOptions(LayersOptions):
    """`attention`: maps of features, or the attention of transformers.

    Attributes:
        of: `maps` of features (channels squared and summed), attention `matrices` of transformers,
            or relations of their `values`.
        loss: `mse`, `kl` or `cosine`.
    """

    term: Literal["attention"]
    of: Literal["maps", "matrices", "values"] = "maps"
    loss: Loss = "mse"

    @model_validator(mode="after")
    def _matrices_have_no_channels(self) -> AttentionOptions:
        if self.of != "maps" and self.combine != "mean":
            raise ValueError(f"{self.of} of several layers are averaged; concat is for maps")
        return self


@dataclass(frozen=True)
class AttentionMaps(OnLayers):
    """Maps of where features are strong: squares summed over channels, as a vector over positions.

    `mse` is the mean squared difference of the maps at length 1 (Zagoruyko and Komodakis, "Paying
    More Attention to Attention", 2017); `kl` takes the maps as distributions, `cosine` is one minus
    their cosine.

    Attributes:
        loss: How maps are compared.
    """

    Options: ClassVar[type[TermOptions]] = AttentionOptions
    loss: Loss = "mse"

    @classmethod
    def make(cls, **arguments: Any) -> Term:
        """See `Term`: `of` tells maps from the attention of transformers, which is read apart."""
        of = arguments.pop("of", "maps")
        if of == "maps":
            return cls(**arguments)
        arguments.pop("combine", None)
        return AttentionRelations(of=of, **arguments)

    def compare(
        self, student_BCHW: Tensor, teacher_BCHW: Tensor, helper: nn.Module | None, progress: float
    ) -> Tensor:
        """See `OnLayers`."""
        maps = at_one_size(student_BCHW, teacher_BCHW)
        student_BN, teacher_BN = (x.square().mean(dim=1).flatten(1) for x in maps)
        if self.loss == "mse":
            student_BN, teacher_BN = F.normalize(student_BN), F.normalize(teacher_BN)
        if self.loss == "kl":
            student_BN, teacher_BN = (
                x / x.sum(dim=1, keepdim=True).clamp_min(1e-12) for x in (student_BN, teacher_BN)
            )
        return COMPARE[self.loss](student_BN, teacher_BN)


def _mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over the last axis."""
    return (student - teacher).square().mean(dim=-1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of distributions over the last axis."""
    apart = teacher.clamp_min(1e-12).log() - student.clamp_min(1e-12).log()
    return (teacher * apart).sum(dim=-1)


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine over the last axis."""
    return 1.0 - F.cosine_similarity(student, teacher, dim=-1)


COMPARE: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _mse,
    "kl": _kl,
    "cosine": _cosine,
}


@dataclass(frozen=True)
class _AttentionPair:
    """An attention layer of the student, and those of the teacher that it learns from."""

    student: AttentionLayer
    teachers: tuple[AttentionLayer, ...]


@dataclass(frozen=True)
class AttentionRelations(Term):
    """Attention from position to position: matrices `[N, N]` of student and teacher, row by row.

    `matrices` are the attention itself, softmax(Q Kᵀ / √d), of each head where both have as many,
    else of the mean over heads (Jiao et al., "TinyBERT", 2020); `values` are softmax(V Vᵀ / √d) of
    as many relation heads as both widths can be cut into (Wang et al., "MiniLM", 2020; "MiniLMv2",
    2021). They are recomputed from queries, keys and values, since fused attention returns none.
    Several layers of the teacher are averaged.

    Attributes:
        of: `matrices` or `values`.
        loss: How rows are compared.
        layers: The teacher's layers by the student's: numbers of attention layers, or their names.
        pairs: The attention layers, in a bound term.
    """

    asks_teacher: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = True
    of: Literal["matrices", "values"] = "matrices"
    loss: Loss = "kl"
    layers: LayerPairs = "auto"
    pairs: tuple[_AttentionPair, ...] = ()

    def bind(self, student: ModelSummary, teacher: ModelSummary | None) -> Term:
        """See `Term`."""
        if teacher is None:
            raise LayerError("attention needs a teacher whose layers can be read")
        own, teachers = _attention_of(student, self.of), _attention_of(teacher, self.of)
        if self.layers == "auto":
            share = student.params / max(1, teacher.params)
            pairs = [
                _AttentionPair(layer, (paired,)) for layer, paired in by_depth(own, teachers, share)
            ]
        else:
            pairs = [
                _AttentionPair(
                    _find(key, own, student), tuple(_find(k, teachers, teacher) for k in keys)
                )
                for key, keys in self.layers.items()
            ]
        for pair in pairs:
            for layer in pair.teachers:
                _check_tokens(student, pair.student, teacher, layer)
        return replace(self, pairs=tuple(pairs))

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(name for pair in self.pairs for name in pair.student.layers)

    @property
    def teacher_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(name for p in self.pairs for layer in p.teachers for name in layer.layers)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        """See `Term`."""
        assert teacher is not None and self.pairs, "bind first"
        losses = []
        for pair in self.pairs:
            student_qkv = _read(student, pair.student)
            with torch.no_grad():
                teacher_qkvs = [_read(teacher, layer) for layer in pair.teachers]
            rows_BRNN, *teacher_rows = self._relations([student_qkv, *teacher_qkvs])
            target_BRNN = _without_class_token(torch.stack(teacher_rows).mean(dim=0), rows_BRNN)
            losses.append(COMPARE[self.loss](rows_BRNN, target_BRNN).mean(dim=(1, 2)))
        return torch.stack(losses).mean(dim=0)

    def _relations(self, models: Sequence[QKV]) -> list[Tensor]:
        """Rows that sum to 1, `[B, R, N, N]`, R the same for all models that are compared."""
        heads = [query.shape[1] for query, _, _ in models]
        if self.of == "matrices":
            scores = [attention_scores(query, key) for query, key, _ in models]
            if len(set(heads)) == 1:
                return scores
            return [score.mean(dim=1, keepdim=True) for score in scores]
        widths = [value.shape[1] * value.shape[3] for _, _, value in models]
        able = (r for r in range(1, min(heads) + 1) if all(width % r == 0 for width in widths))
        relations = max(able)
        cut = [_cut(value, relations) for _, _, value in models]
        return [attention_scores(value, value) for value in cut]


def _cut(value_BHNd: Tensor, parts: int) -> Tensor:
    """Heads joined, and cut anew into `parts`."""
    batch, _, tokens, _ = value_BHNd.shape
    joined_BND = value_BHNd.transpose(1, 2).reshape(batch, tokens, -1)
    return joined_BND.reshape(batch, tokens, parts, -1).transpose(1, 2)


def _attention_of(model: ModelSummary, what: str) -> tuple[AttentionLayer, ...]:
    layers = attention_layers(model.module)
    if not layers:
        raise LayerError(
            f"attention: the {model.name} has no attention layers, so it has no {what}; "
            "of: maps suits convolutional features"
        )
    return layers


def _find(key: str, layers: Sequence[AttentionLayer], model: ModelSummary) -> AttentionLayer:
    """The attention layer of that number or name."""
    by_key = {str(i): layer for i, layer in enumerate(layers)}
    by_key |= {layer.name: layer for layer in layers}
    if key not in by_key:
        known = ", ".join(f"{i} {layer.name}" for i, layer in enumerate(layers))
        raise LayerError(f"the {model.name} has no attention layer {key!r}; it has {known}")
    return by_key[key]


def _check_tokens(
    student: ModelSummary, own: AttentionLayer, teacher: ModelSummary, other: AttentionLayer
) -> None:
    """Matrices can be compared where both see the same tokens, but for a class token."""
    a, b = student.shapes[own.name][0], teacher.shapes[other.name][0]
    if b not in (a, a + 1):
        raise LayerError(
            f"attention: {a} tokens at {own.name} of the student, {b} at {other.name} of the "
            f"{teacher.name}: their matrices cannot be compared. Choose a patch that gives both as "
            "many, or of: maps"
        )


def _read(outputs: Outputs, layer: AttentionLayer) -> QKV:
    assert outputs.module is not None
    return layer.qkv(outputs.module, outputs.features)


def _without_class_token(rows: Tensor, like: Tensor) -> Tensor:
    """The teacher's rows without its class token, where the student has none."""
    if rows.shape[-1] == like.shape[-1]:
        return rows
    patches = rows[..., 1:, 1:]
    return patches / patches.sum(dim=-1, keepdim=True).clamp_min(1e-12)
