"""The diffusion transformer DiT (arXiv 2212.09748) as a velocity network, on timm's layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

# timm moved it to its layers in a later release; this address serves all of them.
from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]
from torch import Tensor, nn

from lightly_prg.models.tau_embedding import TauEmbedding
from lightly_prg.models.velocity_network import VelocityNetwork

SINUSOIDS = 256


class DiTBlock(nn.Module):
    """Attention and MLP with adaLN-zero: tau shifts, scales and gates both, gates from zero.

    Args:
        width: Length of a token.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of ``width``.
    """

    def __init__(self, width: int, *, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, num_heads=heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(
            width,
            hidden_features=round(width * mlp_ratio),
            act_layer=partial(nn.GELU, approximate="tanh"),  # type: ignore[arg-type]
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Maps (B, N, width) and (B or 1, width) to (B, N, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=2)
        tokens = tokens + gate1 * self.attention(self.norm1(tokens) * (1 + scale1) + shift1)
        out: Tensor = tokens + gate2 * self.mlp(self.norm2(tokens) * (1 + scale2) + shift2)
        return out


class DiT(VelocityNetwork):
    """Vision transformer on patches with fixed sin-cos positions, conditioned on tau by adaLN-zero.

    The defaults have DiT-S's width, depth and heads. The output and all modulations start at zero,
    so an untrained network is exactly the zero velocity; see ``redraw_zero_weights`` for a random
    control.

    Blocks: ``blocks.0`` ... ; an activation is the tokens laid out as the grid of their patches,
    (B, width, h, w).

    Args:
        image_size: Side of the square image, in pixels; a multiple of ``patch_size``.
        in_channels: Channels of the image.
        patch_size: Side of a patch, in pixels.
        width: Length of a token; a multiple of 4 and of ``heads``.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of each MLP as a multiple of ``width``.
        tau_scale: Factor on tau before its sinusoids; see ``TauEmbedding``.

    Raises:
        ValueError: If the sizes do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        patch_size: int = 4,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        tau_scale: float = 1000.0,
    ) -> None:
        super().__init__(image_size=image_size, in_channels=in_channels)
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(
                f"image_size={image_size} does not fit patch_size={patch_size}: it has to be a multiple of it."
            )
        if heads < 1 or width % heads or width % 4:
            raise ValueError(f"width={width} does not fit heads={heads}: it has to be a multiple of heads and of 4.")
        if depth < 1:
            raise ValueError(f"depth={depth}; it has to be at least 1.")
        self.patch_size = patch_size
        side = image_size // patch_size
        self.grid = (side, side)
        self.tau_embedding = TauEmbedding(SINUSOIDS, width, tau_scale=tau_scale)
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, width)
        self.positions: Tensor
        self.register_buffer("positions", _positions(self.grid, width), persistent=False)
        # Made on the meta device, they would hold anything.
        self.register_load_state_dict_post_hook(_refill_positions)  # type: ignore[no-untyped-call]
        self.blocks = nn.ModuleList(DiTBlock(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, in_channels * patch_size**2)
        self.block_names = tuple(f"blocks.{i}" for i in range(depth))
        self._initialise()

    def _initialise(self) -> None:
        """Draws the weights as the paper does; the zeros come last, over the general rule."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))  # patches are a linear map too
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.tau_embedding.linear1, self.tau_embedding.linear2):
            nn.init.normal_(layer.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.output.weight)

    def _steps(self, tau: Tensor, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        condition = self.tau_embedding(tau)
        tokens = self.patch_embed(x) + self.positions  # (B, N, width), row by row
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, condition)
            yield f"blocks.{i}", self._to_grid(tokens)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=2)
        patches = self.output(self.norm(tokens) * (1 + scale) + shift)  # (B, N, C * patch^2)
        yield "velocity", F.pixel_shuffle(self._to_grid(patches), self.patch_size)

    def _to_grid(self, tokens: Tensor) -> Tensor:
        """Lays tokens (B, N, c) out as (B, c, h, w): a view, nothing is copied."""
        batch, _, width = tokens.shape
        return tokens.transpose(1, 2).reshape(batch, width, *self.grid)


def _positions(grid: tuple[int, int], width: int) -> Tensor:
    positions: Tensor = build_sincos2d_pos_embed(list(grid), dim=width)
    return positions


def _refill_positions(network: nn.Module, _keys: object) -> None:
    assert isinstance(network, DiT)
    network.positions.copy_(_positions(network.grid, network.positions.shape[-1]))
