from __future__ import annotations

import pytest
import torch

from lightly_prg.eval import RawPixels


def test_raw_pixels__are_the_pixels() -> None:
    encoder = RawPixels((3, 2, 4))
    images = torch.rand(5, 3, 2, 4)
    assert torch.equal(encoder(images), images.reshape(5, 24))
    in_channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(encoder(in_channels_last), images.reshape(5, 24))
    assert encoder(images.half()).dtype == torch.float32
    assert encoder.embedding_dim == 24
    assert encoder.nfe == 0


def test_raw_pixels__refuse_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 2, 4\); got \(5, 3, 4, 2\)"):
        RawPixels((3, 2, 4))(torch.rand(5, 3, 4, 2))
