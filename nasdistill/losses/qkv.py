"""Queries, keys and values of transformers, by library.

Libraries hold an attention in different ways: as three linear layers, as one, as a bare matrix.
Each is recognised by exactly its class and what it holds, without importing the library. What is
not surely understood is refused: rotated or windowed queries, biased or shared attention.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.models import vit
from nasdistill.models.hooks import INPUT, LayerError, body

QKV: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Query, key and value of all heads, each `[B, H, N, d]`."""

Around: TypeAlias = tuple[nn.Module, ...]
"""The modules that a module stands in, from the innermost to the model."""


@dataclass(frozen=True)
class AttentionLayer:
    """A self-attention whose queries, keys and values can be read.

    Attributes:
        kind: Which of the `ADAPTERS` reads it.
        name: Path of the attention module in the model's `body`.
        layers: Names of the layers to read with `hooked`.
        heads: Number of heads H.
        width: D of queries and keys together, H times d.
    """

    kind: str
    name: str
    layers: tuple[str, ...]
    heads: int
    width: int

    def qkv(self, module: nn.Module, features: Mapping[str, Tensor]) -> QKV:
        """Query, key and value as the attention itself uses them (Vaswani et al., 2017).

        Gradients flow through. For torchvision's attention, the projection runs once more; around
        a teacher, put `torch.no_grad()`.

        Args:
            module: The model that `attention_layers` found this layer in, or a copy.
            features: The outputs that `hooked` read, all of `layers` among them.

        Returns:
            Each `[B, H, N, d]`, in the precision of the features.
        """
        part = body(module).get_submodule(self.name)
        tensors = tuple(features[layer] for layer in self.layers)
        return ADAPTERS[self.kind].split(part, self.heads, tensors)


def attention_layers(module: nn.Module) -> tuple[AttentionLayer, ...]:
    """All self-attention layers of a model, in order of definition.

    Attention that pools tokens into one, as some models' head does, is left out.

    Args:
        module: Any model; a convolutional net has none. Names are those of its `body`.

    Raises:
        LayerError: If the model has an attention that cannot be read, with those that can.
    """
    inner = body(module)
    layers: list[AttentionLayer] = []
    seen: list[str] = []  # paths of modules whose inside needs no look
    for name, part in inner.named_modules():
        if any(not path or name.startswith(f"{path}.") for path in seen):
            continue
        layer = _layer(inner, name, part)
        if layer is not None:
            layers.append(layer)
        elif _is_attention(part):
            supported = "; ".join(adapter.reads for adapter in ADAPTERS.values())
            raise LayerError(
                f"queries, keys and values of the {type(part).__name__} at {name!r} cannot be "
                f"read ({_class(part)}); those that can: {supported}"
            )
        if layer is not None or _POOLING in type(part).__name__:
            seen.append(name)
    return tuple(layers)


def log_attention(q_BHNd: Tensor, k_BHNd: Tensor) -> Tensor:
    """The logarithm of attention, softmax(q kᵀ / √d) (Vaswani et al., 2017).

    Args:
        q_BHNd: Queries.
        k_BHNd: Keys.

    Returns:
        float32 `[B, H, N, N]`, under autocast too; its exponentials sum to 1 over the last axis.
    """
    with torch.autocast(q_BHNd.device.type, enabled=False):
        scores_BHNN = q_BHNd.float() @ k_BHNd.float().transpose(-2, -1)
        return (scores_BHNN / math.sqrt(q_BHNd.shape[-1])).log_softmax(dim=-1)


class _Match(NamedTuple):
    """An attention that an adapter recognised: names of layers within it, heads, and width."""

    layers: tuple[str, ...]
    heads: int
    width: int


class _Adapter(NamedTuple):
    """One way to hold an attention.

    Attributes:
        reads: What it reads, for messages.
        find: Looks at a module and at those around it.
        split: From the module, its number of heads and what was hooked to queries, keys, values.
    """

    reads: str
    find: Callable[[nn.Module, Around], _Match | None]
    split: Callable[[nn.Module, int, tuple[Tensor, ...]], QKV]


def _find_ours(part: nn.Module, around: Around) -> _Match | None:
    if type(part) is not vit.Attention:
        return None
    return _Match(("q", "k", "v"), part.heads, part.q.out_features)


def _find_timm(part: nn.Module, around: Around) -> _Match | None:
    """One linear layer for all three; `q_norm` and `k_norm`, often the identity, see each head."""
    places = {type(outer).__module__ for outer in around if _class(outer).startswith(_TIMM_MODELS)}
    if _class(part) not in _TIMM or not places <= _TIMM_PLACES:
        return None
    qkv, heads = getattr(part, "qkv", None), getattr(part, "num_heads", 0)
    norms = all(isinstance(getattr(part, name, None), nn.Module) for name in ("q_norm", "k_norm"))
    if not isinstance(qkv, nn.Linear) or not norms or not _divides(3 * heads, qkv.out_features):
        return None
    width = qkv.out_features // 3
    if not _is_usual_scale(getattr(part, "scale", None), width // heads):
        return None
    return _Match(("q_norm", "k_norm", "qkv"), heads, width)


def _find_torch(part: nn.Module, around: Around) -> _Match | None:
    """`nn.MultiheadAttention`, where its surroundings give it one tensor as q, k and v."""
    known = bool(around) and _class(around[0]) in _TORCH_PARENTS
    if type(part) is not nn.MultiheadAttention or not known:
        return None
    packed = part.in_proj_weight is not None and part._qkv_same_embed_dim
    if not packed or not part.batch_first or part.bias_k is not None or part.add_zero_attn:
        return None
    return _Match((INPUT,), part.num_heads, part.embed_dim)


def _find_transformers(part: nn.Module, around: Around) -> _Match | None:
    """Three linear layers: `q_proj` and so on since version 5, `query` and so on before."""
    known = _TRANSFORMERS.fullmatch(_class(part))
    heads = getattr(part, "num_attention_heads", 0)
    if known is None or getattr(part, "is_causal", False) or _has_position_bias(part, known["of"]):
        return None
    for layers in (("q_proj", "k_proj", "v_proj"), ("query", "key", "value")):
        children = (part._modules.get(layer) for layer in layers)
        linear = [child for child in children if isinstance(child, nn.Linear)]
        widths = {layer.out_features for layer in linear}
        if len(linear) != 3 or len(widths) != 1 or not _divides(heads, min(widths)):
            continue
        if _is_usual_scale(getattr(part, "scaling", None), min(widths) // heads):
            return _Match(layers, heads, min(widths))
    return None


def _split_three(part: nn.Module, heads: int, tensors: tuple[Tensor, ...]) -> QKV:
    """From outputs `[B, N, D]` of three linear layers."""
    q_BND, k_BND, v_BND = tensors
    return _by_head(q_BND, heads), _by_head(k_BND, heads), _by_head(v_BND, heads)


def _split_normed(part: nn.Module, heads: int, tensors: tuple[Tensor, ...]) -> QKV:
    """From q and k `[B, H, N, d]` behind their norms, and all three `[B, N, 3D]` before."""
    q_BHNd, k_BHNd, qkv_BNX = tensors
    return q_BHNd, k_BHNd, _by_head(qkv_BNX.chunk(3, dim=-1)[2], heads)


def _split_packed(part: nn.Module, heads: int, tensors: tuple[Tensor, ...]) -> QKV:
    """From the input `[B, N, D]`, by the attention's matrix `[3D, D]`."""
    assert isinstance(part, nn.MultiheadAttention)
    (x_BND,) = tensors
    qkv_BNX = F.linear(x_BND.to(part.in_proj_weight.dtype), part.in_proj_weight, part.in_proj_bias)
    return _split_three(part, heads, qkv_BNX.chunk(3, dim=-1))


ADAPTERS: dict[str, _Adapter] = {
    "nasdistill": _Adapter("the vit family's Attention", _find_ours, _split_three),
    "timm": _Adapter(
        "timm's Attention with one qkv layer, as in its vision_transformer, deit, naflexvit, "
        "pit and vitamin",
        _find_timm,
        _split_normed,
    ),
    "torch": _Adapter(
        "nn.MultiheadAttention, packed and batch first, in torchvision's EncoderBlock or in "
        "nn.TransformerEncoderLayer",
        _find_torch,
        _split_packed,
    ),
    "transformers": _Adapter(
        "transformers' ViT, DeiT, BEiT (without relative positions), DINOv2, ViTMSN, "
        "I-JEPA and YOLOS",
        _find_transformers,
        _split_three,
    ),
}

_TIMM = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")
_TIMM_MODELS = "timm.models."
# Other models of timm give it parts of an image as if they were images.
_TIMM_PLACES = {
    f"{_TIMM_MODELS}{name}"
    for name in (
        "vision_transformer",
        "vision_transformer_hybrid",
        "deit",
        "naflexvit",
        "pit",
        "vitamin",
    )
}
_TORCH_PARENTS = (
    "torchvision.models.vision_transformer.EncoderBlock",
    "torch.nn.modules.transformer.TransformerEncoderLayer",
)
_TRANSFORMERS = re.compile(
    r"transformers\.models\.\w+\.modeling_\w+\."
    r"(?P<of>ViT|DeiT|Beit|Dinov2|Dinov2WithRegisters|ViTMSN|IJepa|Yolos)"
    r"(Sdpa)?(Self)?Attention"
)
_POOLING = "AttentionPool"
_ATTENTION = re.compile(r"Attention|Attn")
_HEADS = ("heads", "num_heads", "n_heads", "nheads", "n_head", "nhead", "num_attention_heads")
_PROJECTION = re.compile(
    r"((to|in|w|fc|lin|linear|conv)_?)?"
    r"(?P<of>q|k|v|kv|qk|qkv|query|queries|key|keys|value|values)"
    r"(_?(proj|projection|norm|linear|lin|fc|conv|layer))?",
    re.IGNORECASE,
)


def _layer(model: nn.Module, name: str, part: nn.Module) -> AttentionLayer | None:
    outer_parts: list[nn.Module] = []
    outer = name
    while outer:
        outer = outer.rpartition(".")[0]
        outer_parts.append(model.get_submodule(outer))
    for kind, adapter in ADAPTERS.items():
        match = adapter.find(part, tuple(outer_parts))
        if match is not None:
            layers = tuple(
                f"{name}{inner}" if inner == INPUT or not name else f"{name}.{inner}"
                for inner in match.layers
            )
            return AttentionLayer(kind, name, layers, match.heads, match.width)
    return None


def _is_attention(part: nn.Module) -> bool:
    """Whether a module attends from token to token itself, rather than holding one that does.

    Squeeze-and-excitation and attention to channels or places have neither heads nor queries.
    """
    if _POOLING in type(part).__name__:
        return False
    if _has_projections(part):
        return True
    named = _ATTENTION.search(type(part).__name__) is not None
    has_heads = any(isinstance(getattr(part, name, None), int) for name in _HEADS)
    return named and has_heads and not any(map(_is_attention, list(part.modules())[1:]))


def _has_projections(part: nn.Module) -> bool:
    """Whether it holds something called `qkv`, or a query of some spelling and a key or value."""
    matches = filter(None, map(_PROJECTION.fullmatch, _own_names(part)))
    held = {match["of"].lower() for match in matches}
    queries = {of for of in held if of.startswith("q")}
    return "qkv" in held or (bool(queries) and len(held) > len(queries))


def _own_names(part: nn.Module) -> Iterator[str]:
    """Names of direct children and parameters."""
    for name, _ in part.named_children():
        yield name
    for name, _ in part.named_parameters(recurse=False):
        yield name


def _class(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _by_head(x_BND: Tensor, heads: int) -> Tensor:
    batch, tokens, width = x_BND.shape
    return x_BND.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def _divides(heads: object, width: int) -> bool:
    return isinstance(heads, int) and heads > 0 and width % heads == 0


def _is_usual_scale(scale: object, depth: int) -> bool:
    """Whether scores are divided by √d; where nothing is said, they are."""
    return scale is None or (isinstance(scale, float) and math.isclose(scale, depth**-0.5))


def _has_position_bias(part: nn.Module, model: str) -> bool:
    """Whether BEiT adds to its scores what depends on places, which q and k do not tell."""
    if model != "Beit":
        return False
    config = getattr(part, "config", None)
    return config is None or any(
        getattr(config, name, True)
        for name in ("use_relative_position_bias", "use_shared_relative_position_bias")
    )
