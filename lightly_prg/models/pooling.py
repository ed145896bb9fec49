"""From an activation to one vector for each image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pool(values: Tensor, kind: str) -> Tensor:
    """Reduces an image-shaped, token-shaped or flat activation to one vector for each image.

    Args:
        values: ``(B, C, H, W)``, tokens ``(B, N, C)`` or ``(B, D)``.
        kind: ``mean``, ``flatten`` or ``grid:N``.

    Returns:
        ``(B, C)``, ``(B, everything)`` or ``(B, C * N * N)``.

    Raises:
        ValueError: If tokens that do not form a square are to be pooled on a grid, or the grid is finer than the
            activation.
    """
    if values.ndim == 2 or kind == "flatten":
        return values.flatten(1)
    if values.ndim == 3:
        if kind == "mean":
            return values.mean(1)
        side = round(values.shape[1] ** 0.5)
        if side * side != values.shape[1]:
            raise ValueError(
                f"{values.shape[1]} tokens form no square, so pool={kind!r} does not fit; take 'mean' or 'flatten'."
            )
        values = values.transpose(1, 2).reshape(len(values), -1, side, side)
    if values.ndim != 4:
        raise ValueError(f"An activation of shape {tuple(values.shape)} cannot be pooled.")
    if kind == "mean":
        return values.mean((2, 3))
    cells = int(kind.removeprefix("grid:"))
    if cells > min(values.shape[2:]):
        height, width = values.shape[2:]
        raise ValueError(f"pool={kind!r} is finer than the activation, which is {height} x {width}.")
    if values.device.type == "mps" and any(side % cells for side in values.shape[2:]):
        # There it pools whole cells alone (pytorch #96056).
        return F.adaptive_avg_pool2d(values.cpu(), cells).flatten(1).to(values.device)
    return F.adaptive_avg_pool2d(values, cells).flatten(1)


def pooled(values: Tensor, kind: str, x: Tensor) -> Tensor:
    """``pool`` of what a network gave for the images ``x``, ``(B, C, H, W)``.

    Raises:
        ValueError: As ``pool``, or if there is not one row for each image: tokens may lie before the batch.
    """
    features = pool(values, kind)
    if len(features) != len(x):
        raise ValueError(
            f"What is read has the shape {tuple(values.shape)} for {len(x)} images: the batch has to come first. "
            "Layers of sequences need batch_first=True."
        )
    return features


def channels_first(values: Tensor, x: Tensor) -> Tensor:
    """An activation ``(B, h, w, C)``, as Swin's stages and ConvNeXt's norms give it, as ``(B, C, h, w)``.

    Told by its shape: of a square input the two equal sides are those of the image. Where all three are equal, and of
    an input that is not square, it is taken as it is.

    Args:
        values: The activation.
        x: What the network was given, ``(B, C, H, W)``.
    """
    if values.ndim != 4 or x.ndim != 4 or x.shape[2] != x.shape[3]:
        return values
    first, second, third = values.shape[1:]
    return values.permute(0, 3, 1, 2) if first == second != third else values


def fitting_pool(values: Tensor, kind: str) -> str:
    """The pool itself, or the finest grid that an activation has where ``grid:N`` is finer than that.

    Args:
        values: As in ``pool``.
        kind: ``mean``, ``flatten`` or ``grid:N``.
    """
    if not kind.startswith("grid:") or values.ndim == 2:
        return kind
    side = min(values.shape[2:]) if values.ndim == 4 else round(values.shape[1] ** 0.5)
    if side >= int(kind.removeprefix("grid:")):
        return kind
    return f"grid:{side}" if side > 1 else "mean"
