"""Attention heads of a net, which are cut as wholes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from nasdistill.models import vit
from nasdistill.models.coupling import Group, Member, Side


@dataclass(frozen=True)
class Attention:
    """A module of attention whose heads can be cut.

    Attributes:
        name: Dotted name of the module.
        makes: Layers that make queries, keys and values, each with how many of these it makes.
        reads: The layer that reads the heads' outputs.
        heads: Number of heads.
        width: Numbers of a head.
    """

    name: str
    makes: Mapping[str, int]
    reads: str
    heads: int
    width: int

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides of layers between which the heads lie."""
        return (*(Side(name, "out") for name in self.makes), Side(self.reads, "in"))


def attentions_of(net: nn.Module) -> list[Attention]:
    """The attention modules of a net that are of a kind whose heads can be cut.

    These are ours, timm's, and those of ViT and its like in transformers. `nn.MultiheadAttention`
    is none: its heads share the width of what it takes in.
    """
    attentions = []
    for name, module in net.named_modules():
        if isinstance(module, vit.Attention):
            parts = {f"{name}.{part}": 1 for part in "qkv"}
            width = module.q.out_features // module.heads
            attentions.append(Attention(name, parts, f"{name}.out", module.heads, width))
        elif _is_of_timm(module):
            parts = {f"{name}.qkv": 3}
            heads, width = module.num_heads, module.head_dim
            attentions.append(Attention(name, parts, f"{name}.proj", heads, width))  # type: ignore[arg-type]
        elif _is_of_transformers(module):
            parts = {f"{name}.{part}_proj": 1 for part in "qkv"}
            heads, width = module.num_attention_heads, module.head_dim
            attentions.append(Attention(name, parts, f"{name}.o_proj", heads, width))  # type: ignore[arg-type]
    return attentions


def _is_of_timm(module: nn.Module) -> bool:
    if type(module).__name__ != "Attention" or not type(module).__module__.startswith("timm."):
        return False
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    width = getattr(module, "attn_dim", 0)
    plain = getattr(module, "gate", None) is None
    plain = plain and isinstance(getattr(module, "norm", None), nn.Identity)
    linear = isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear)
    return bool(plain and linear and qkv.out_features == 3 * width)  # type: ignore[union-attr]


def _is_of_transformers(module: nn.Module) -> bool:
    """Whether a module has as many queries, keys and values, by head as `head_dim` says."""
    if not type(module).__module__.startswith("transformers."):
        return False
    heads, width = (getattr(module, key, None) for key in ("num_attention_heads", "head_dim"))
    makes = [getattr(module, f"{part}_proj", None) for part in "qkv"]
    reads = getattr(module, "o_proj", None)
    if type(heads) is not int or type(width) is not int or not isinstance(reads, nn.Linear):
        return False
    sizes = {each.out_features if isinstance(each, nn.Linear) else 0 for each in makes}
    return sizes == {heads * width} == {reads.in_features}


def heads_group(attention: Attention) -> Group:
    """The group whose units are the heads of an attention module."""
    channels = np.arange(attention.heads * attention.width)
    of_head = channels // attention.width
    members = {
        Side(name, "out"): Member(np.arange(len(channels) * count), np.tile(of_head, count))
        for name, count in attention.makes.items()
    }
    members[Side(attention.reads, "in")] = Member(channels, of_head)
    givers = tuple(attention.makes)
    return Group(
        givers[0], attention.heads, attention.width, members, givers, attention=attention.name
    )


def set_heads(net: nn.Module, name: str, heads: int) -> None:
    """Tells an attention module how many heads are left."""
    module = net.get_submodule(name)
    if isinstance(module, vit.Attention):
        module.heads = heads
        return
    if hasattr(module, "o_proj"):
        module.num_attention_heads = heads  # type: ignore[assignment]
        return
    module.num_heads = heads  # type: ignore[assignment]
    module.attn_dim = heads * module.head_dim  # type: ignore[operator, assignment]
