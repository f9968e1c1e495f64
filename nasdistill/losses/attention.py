"""Terms on attention: maps of features, and the attention of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from nasdistill.data import Batch
from nasdistill.losses.layer_pairs import OnLayers, at_one_size, by_depth
from nasdistill.losses.options import LayerPairs, LayersOptions, TermOptions
from nasdistill.losses.qkv import QKV, AttentionLayer, attention_layers, log_attention
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
    relates_places: ClassVar[bool] = True
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
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        batch: Batch,
        helper: nn.Module | None,
        progress: float,
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


def _log_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of logarithms of distributions over the last axis."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


COMPARE: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _mse,
    "kl": _kl,
    "cosine": _cosine,
}


@dataclass(frozen=True)
class _AttentionPair:
    """An attention layer of the student, and those of the teacher that it learns from.

    Attributes:
        student: The student's layer.
        teachers: The teacher's.
        left_out: Number of special tokens before the patches that are left out of the student's
            attention, and of the teacher's.
        heads: int64 on the models' device: the heads of the teacher's layer that are the student's,
            where it was cut from that and has lost some; None for all.
        matched: Whether the student was cut from the teacher, and this is the same layer of both.
    """

    student: AttentionLayer
    teachers: tuple[AttentionLayer, ...]
    left_out: tuple[int, int] = (0, 0)
    heads: Tensor | None = field(default=None, compare=False)
    matched: bool = False


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
        kept = student.kept_of(teacher)
        if self.layers == "auto":
            share = student.params / max(1, teacher.params)
            if kept is not None:  # Of a part of the teacher each layer is paired with itself.
                teachers = tuple(_find(layer.name, teachers, teacher) for layer in own)
            pairs = [
                _AttentionPair(layer, (paired,)) for layer, paired in by_depth(own, teachers, share)
            ]
            if kept is not None:
                device = next(student.module.parameters()).device
                known = {name: heads.to(device) for name, heads in kept.heads.items()}
                pairs = [replace(p, heads=known.get(p.student.name), matched=True) for p in pairs]
        else:
            pairs = [
                _AttentionPair(
                    _find(key, own, student), tuple(_find(k, teachers, teacher) for k in keys)
                )
                for key, keys in self.layers.items()
            ]
        pairs = [replace(pair, left_out=_tokens_left_out(student, teacher, pair)) for pair in pairs]
        return replace(self, pairs=tuple(pairs))

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(name for pair in self.pairs for name in pair.student.layers)

    @property
    def teacher_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(name for p in self.pairs for layer in p.teachers for name in layer.layers)

    @property
    def matched_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Term`."""
        return tuple(pair.student.name for pair in self.pairs if pair.matched)

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
                if pair.heads is not None:
                    teacher_qkvs = [
                        (q[:, pair.heads], k[:, pair.heads], v[:, pair.heads])
                        for q, k, v in teacher_qkvs
                    ]
            own_BRNN, *teacher_BRNNs = self._relations([student_qkv, *teacher_qkvs])
            of_student, of_teacher = pair.left_out
            rows_BRNN = _without_first(own_BRNN, of_student)
            target_BRNN = _without_first(_log_mean(torch.stack(teacher_BRNNs), dim=0), of_teacher)
            losses.append(self._compare(rows_BRNN, target_BRNN))
        return torch.stack(losses).mean(dim=0)

    def _compare(self, rows_BRNN: Tensor, target_BRNN: Tensor) -> Tensor:
        """The mean over rows of logarithms of probabilities, `[B]`."""
        if self.loss == "kl":
            return _log_kl(rows_BRNN, target_BRNN).mean(dim=(1, 2))
        return COMPARE[self.loss](rows_BRNN.exp(), target_BRNN.exp()).mean(dim=(1, 2))

    def _relations(self, models: Sequence[QKV]) -> list[Tensor]:
        """Logarithms of rows that sum to 1, `[B, R, N, N]`, R the same for all models."""
        heads = [query.shape[1] for query, _, _ in models]
        if self.of == "matrices":
            scores = [log_attention(query, key) for query, key, _ in models]
            if len(set(heads)) == 1:
                return scores
            return [_log_mean(score, dim=1, keepdim=True) for score in scores]
        widths = [value.shape[1] * value.shape[3] for _, _, value in models]
        able = (r for r in range(1, min(heads) + 1) if all(width % r == 0 for width in widths))
        relations = max(able)
        cut = [_cut(value, relations) for _, _, value in models]
        return [log_attention(value, value) for value in cut]


def _log_mean(log_p: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """The logarithm of the mean of distributions."""
    return log_p.logsumexp(dim=dim, keepdim=keepdim) - math.log(log_p.shape[dim])


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


def _tokens_left_out(
    student: ModelSummary, teacher: ModelSummary, pair: _AttentionPair
) -> tuple[int, int]:
    """Number of tokens at the begin that are left out of both sides: none where they are alike.

    Raises:
        LayerError: If the sides do not see the same patches, or one alone.
    """
    own = pair.student.name
    tokens, special = student.shapes[own][0], student.special_tokens(own)
    for name in (layer.name for layer in pair.teachers):
        of_teacher, teacher_special = teacher.shapes[name][0], teacher.special_tokens(name)
        if of_teacher - teacher_special != tokens - special:
            raise LayerError(
                f"attention: {tokens} tokens at {own} of the student, {of_teacher} at {name} of "
                f"the {teacher.name} ({special} and {teacher_special} of them special): their "
                "matrices cannot be compared. Choose a patch that gives both as many, or of: maps"
            )
    if tokens - special == 1:
        raise LayerError(
            f"attention: there is one patch at {own} of the student, which attends to itself "
            "alone. Choose a smaller patch, or use features, similarity, rkd or crd"
        )
    return (0, 0) if special == teacher_special else (special, teacher_special)


def _read(outputs: Outputs, layer: AttentionLayer) -> QKV:
    assert outputs.module is not None
    return layer.qkv(outputs.module, outputs.features)


def _without_first(log_rows: Tensor, number: int) -> Tensor:
    """Rows without the first tokens: neither what these attend to, nor what attends to them."""
    if number == 0:
        return log_rows
    return log_rows[..., number:, number:].log_softmax(dim=-1)
