from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from stand_ins import SHAPE, Encoder, Images
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval import RawPixels, embed


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_raw_pixels__are_the_images_in_01(batch_size: int) -> None:
    images = Images()
    result = embed(RawPixels(SHAPE), images, batch_size=batch_size, device="cpu")
    expected = images.images.flatten(1).numpy().astype(np.float32) / 255
    np.testing.assert_array_equal(result.features, expected)
    assert result.features.dtype == np.float32
    assert result.labels.tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert result.names == tuple(images.names)
    assert result.nfe == 0
    assert result.embedding_dim == 32
    assert result.seconds > 0
    assert result.images_per_second == pytest.approx(7 / result.seconds)


def test_float_images__are_taken_as_they_are() -> None:
    images = Images()
    images.images = images.images.float() / 255
    result = embed(RawPixels(SHAPE), images, device="cpu")
    np.testing.assert_array_equal(result.features, images.images.flatten(1).numpy())


def test_modes__are_evaluation_and_then_as_before() -> None:
    encoder = Encoder().train()
    encoder.norm.eval()
    first = embed(encoder, Images(), device="cpu")
    assert encoder.training
    assert encoder.dropout.training
    assert not encoder.norm.training
    assert torch.is_grad_enabled()
    np.testing.assert_array_equal(first.features, embed(encoder, Images(), device="cpu").features)


def test_modes__are_restored_after_an_error() -> None:
    encoder = Encoder().train()
    encoder.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        embed(encoder, Images(), device="cpu")
    assert encoder.training


def test_not_finite__names_the_image() -> None:
    class Bad(RawPixels):
        def forward(self, images: Tensor) -> Tensor:
            features = super().forward(images)
            features[(images == bad).flatten(1).all(dim=1), 3] = float("inf")
            return features

    images = Images()
    bad = images.images[4].float() / 255
    with pytest.raises(FloatingPointError, match=r"'4\.png'"):
        embed(Bad(SHAPE), images, batch_size=3, device="cpu")


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2e-2), ("16", 2e-3)])
def test_precision__is_lower_inside_and_float32_outside(precision: str, error: float) -> None:
    encoder = Encoder()
    exact = embed(encoder, Images(), device="cpu").features
    result = embed(encoder, Images(), device="cpu", precision=precision).features
    assert result.dtype == np.float32
    assert 0 < np.abs(result - exact).max() < error * np.abs(exact).max()


def test_progress__counts_images() -> None:
    seen: list[tuple[int, int]] = []
    embed(
        RawPixels(SHAPE),
        Images(),
        batch_size=3,
        device="cpu",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_nfe__is_one_where_the_encoder_does_not_say() -> None:
    assert embed(nn.Flatten(), Images(), device="cpu").nfe == 1


def test_nfe__is_read_after_the_encoder_ran() -> None:
    class Counting(RawPixels):
        def forward(self, images: Tensor) -> Tensor:
            self.nfe = 8
            return super().forward(images)

    assert embed(Counting(SHAPE), Images(), device="cpu").nfe == 8


def test_empty__is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        embed(RawPixels(SHAPE), Images(rows=0), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "64"}, "allowed are 32, bf16, 16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "abacus"}, "'abacus' is not available"),
    ],
)
def test_options__are_checked(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed(RawPixels(SHAPE), Images(), **{"device": "cpu", **options})


def test_output__has_to_be_vectors() -> None:
    with pytest.raises(ValueError, match=r"\(7, 2, 4, 4\) of 7 images"):
        embed(nn.Identity(), Images(), device="cpu")


def test_loader__has_to_keep_the_order() -> None:
    images = Images()
    images.names = images.names[::-1]
    result = embed(RawPixels(SHAPE), images, device="cpu")  # consistently reversed: fine
    assert result.names[0] == "6.png"

    class Shuffled(Images):
        def loader(self, **options: int) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
            return iter(list(super().loader(**options))[::-1])

    with pytest.raises(ValueError, match=r"'6\.png' as image 0"):
        embed(RawPixels(SHAPE), Shuffled(), batch_size=2, device="cpu")


def test_loader__has_to_give_every_image() -> None:
    class Short(Images):
        def loader(self, **options: int) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
            return iter(list(super().loader(**options))[:-1])

    with pytest.raises(ValueError, match="6 images of 7"):
        embed(RawPixels(SHAPE), Short(), batch_size=2, device="cpu")


def test_what_an_encoder_keeps__can_be_trained_with() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept: Tensor | None = None
            self.weight = nn.Parameter(torch.ones(32))

        def forward(self, images: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = torch.ones(32)
            return images.flatten(1) * self.kept * self.weight

    encoder = Lazy()
    embed(encoder, Images(), device="cpu")
    encoder(torch.rand(2, *SHAPE)).sum().backward()
    assert encoder.weight.grad is not None
