"""Small vision transformers (Dosovitskiy et al., 2021; convolutional stem: Xiao et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasdistill.common.types import Input
from nasdistill.models.layers import MOST_BLOCKS, conv_bn, in_bounds, whole
from nasdistill.space import Architecture

MOST_TOKENS = 65_536


class Attention(nn.Module):
    """Multi-head self-attention.

    `q`, `k` and `v` are modules, so that a hook reads queries, keys and values `[B, N, D]`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attends."""
        batch, tokens, _ = x_BND.shape
        width = self.q.out_features  # that of all heads: some may be cut

        def split(y_BND: Tensor) -> Tensor:
            shape = (batch, tokens, self.heads, width // self.heads)
            return y_BND.reshape(shape).transpose(1, 2)

        mixed_BHND = F.scaled_dot_product_attention(
            split(self.q(x_BND)), split(self.k(x_BND)), split(self.v(x_BND))
        )
        out: Tensor = self.out(mixed_BHND.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, x_BND: Tensor) -> Tensor:
        """One block."""
        x_BND = x_BND + self.attention(self.norm1(x_BND))
        out: Tensor = x_BND + self.mlp(self.norm2(x_BND))
        return out


class VisionTransformer(nn.Module):
    """Stem, position embedding, blocks, mean over tokens or a class token, classifier.

    Args:
        stem: From images to a map `[B, D, H, W]`.
        tokens: Number of patches.
        width: Numbers in a token.
        depth: Number of blocks.
        heads: Heads of attention in each.
        ratio: Width of the perceptron in each, as a multiple of `width`.
        classes: Number of logits.
        class_token: Whether a token of its own, learned, is classified instead of the mean.
    """

    def __init__(
        self,
        stem: nn.Module,
        tokens: int,
        width: int,
        depth: int,
        heads: int,
        ratio: int,
        classes: int,
        class_token: bool = False,
    ) -> None:
        super().__init__()
        self.stem = stem
        special = 1 if class_token else 0
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.positions = nn.Parameter(torch.zeros(1, special + tokens, width))
        self.blocks = nn.Sequential(*[Block(width, heads, ratio) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits."""
        x_BND = self.stem(x_BCHW).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x_BND = torch.cat([self.class_token.expand(x_BND.shape[0], -1, -1), x_BND], dim=1)
        x_BND = self.norm(self.blocks(x_BND + self.positions))
        pooled_BD = x_BND.mean(dim=1) if self.class_token is None else x_BND[:, 0]
        logits: Tensor = self.head(pooled_BD)
        return logits


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds a network of the family.

    Args:
        architecture: Its values are `tokens` (side of the token grid, at most), `stem` (`patch`, or
            `convolutional` with `channels`), `heads`, `head_width`, `depth` and `mlp_ratio`;
            and `pool`, `mean` over tokens where it says nothing, or a class `token`.
        input: The image.
        classes: Number of logits.
    """
    values = architecture.values
    heads, side = whole(values, "heads"), whole(values, "tokens")
    width = heads * whole(values, "head_width")
    depth = in_bounds("depth", values["depth"], 0, MOST_BLOCKS)
    patch = 1
    while min(input.size) / (2 * patch) >= side:
        patch *= 2
    patch = max(2, patch)
    stem_values = values["stem"]
    pad = [-side % patch for side in input.size]
    if stem_values["type"] == "patch":
        stem: nn.Module = nn.Conv2d(input.channels, width, patch, patch)
    else:
        channels = whole(stem_values, "channels")
        stem = nn.Sequential(
            conv_bn(input.channels, channels, 3, 2, "gelu"),
            nn.Conv2d(channels, width, patch // 2, patch // 2),
        )
    if any(pad):
        stem = nn.Sequential(nn.ZeroPad2d((0, pad[1], 0, pad[0])), stem)
    tokens = ((input.height + pad[0]) // patch) * ((input.width + pad[1]) // patch)
    in_bounds("tokens in all", tokens, 1, MOST_TOKENS)
    ratio = whole(values, "mlp_ratio")
    class_token = {"mean": False, "token": True}[values.get("pool", "mean")]
    return VisionTransformer(stem, tokens, width, depth, heads, ratio, classes, class_token)
