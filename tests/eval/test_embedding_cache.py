from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import Encoder, Images
from torch import nn

from lightly_prg.errors import UserError
from lightly_prg.eval import Embeddings, RawPixels, embed
from lightly_prg.eval.cache import CacheEntry, encoder_sha256


class Counted:
    """An encoder with a count of its batches, which leaves its attributes alone."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self.batches = 0
        encoder.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.batches += 1

    def embed(self, folder: Path, images: Images | None = None, **options: object) -> Embeddings:
        options = {"device": "cpu", "batch_size": 3, "cache_dir": folder, **options}
        return embed(self.encoder, images or Images(), **options)  # type: ignore[arg-type]


@pytest.fixture
def counted() -> Counted:
    return Counted(Encoder())


def only(folder: Path, pattern: str) -> Path:
    (file,) = folder.glob(pattern)
    return file


def test_hit__does_not_run_the_encoder(counted: Counted, tmp_path: Path) -> None:
    plain = embed(counted.encoder, Images(), device="cpu", batch_size=3)
    counted.batches = 0
    first = counted.embed(tmp_path / "new" / "cache")
    assert counted.batches == 3
    seen: list[tuple[int, int]] = []
    second = counted.embed(
        tmp_path / "new" / "cache",
        batch_size=7,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert counted.batches == 3
    assert seen == [(7, 7)]
    for result in (first, second):
        assert isinstance(result.features, np.memmap)
        np.testing.assert_array_equal(result.features, plain.features)
        assert result.labels.tolist() == plain.labels.tolist()
        assert result.names == plain.names
        assert result.nfe == 5
    assert second.seconds == first.seconds > 0


def test_no_temporary_files__are_left(counted: Counted, tmp_path: Path) -> None:
    counted.embed(tmp_path)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".npy"]


def test_weights__decide(counted: Counted, tmp_path: Path) -> None:
    before = counted.embed(tmp_path).features.copy()
    with torch.no_grad():
        counted.encoder.weight[0, 0] += 1e-3
    after = counted.embed(tmp_path).features
    assert counted.batches == 6
    assert np.abs(after - before).max() > 0


def test_buffers__decide(counted: Counted, tmp_path: Path) -> None:
    counted.embed(tmp_path)
    counted.encoder.norm.running_mean += 1
    counted.embed(tmp_path)
    assert counted.batches == 6


def test_data_precision_and_key__decide(counted: Counted, tmp_path: Path) -> None:
    counted.embed(tmp_path)
    for options in (
        {"images": Images(fingerprint="others")},
        {"images": Images(rows=6)},
        {"precision": "bf16"},
        {"cache_key": "mine"},
    ):
        before = counted.batches
        counted.embed(tmp_path, **options)
        assert counted.batches > before, options
        before = counted.batches
        counted.embed(tmp_path, **options)
        assert counted.batches == before, options


def test_cache_key__stands_for_the_encoder(counted: Counted, tmp_path: Path) -> None:
    counted.embed(tmp_path, cache_key="mine")
    other = Counted(Encoder(seed=1))
    other.embed(tmp_path, cache_key="mine")
    assert other.batches == 0


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zeros(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def another_shape(file: Path) -> None:
    np.save(file, np.zeros((2, 2), np.float32))


def another_type(file: Path) -> None:
    np.save(file, np.load(file).astype(np.float64))


def a_pickle(file: Path) -> None:
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)


def a_list(file: Path) -> None:
    file.write_text("[1, 2]")


def without_a_key(file: Path) -> None:
    facts = json.loads(file.read_text())
    del facts["nfe"]
    file.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *(
            (".npy", damage)
            for damage in (
                truncate,
                flip_a_bit,
                empty,
                zeros,
                another_shape,
                another_type,
                a_pickle,
                Path.unlink,
            )
        ),
        *((".json", damage) for damage in (truncate, empty, a_list, without_a_key, Path.unlink)),
    ],
)
def test_damage__is_said_and_recomputed(
    counted: Counted, tmp_path: Path, suffix: str, damage, caplog: pytest.LogCaptureFixture
) -> None:
    expected = counted.embed(tmp_path).features.copy()
    assert not caplog.messages
    damage(only(tmp_path, f"*{suffix}"))
    again = counted.embed(tmp_path)
    assert [("damaged" in message) for message in caplog.messages] == ([] if damage is Path.unlink else [True])
    assert counted.batches == 6
    np.testing.assert_array_equal(again.features, expected)
    counted.embed(tmp_path)
    assert counted.batches == 6


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_damage_anywhere__is_never_believed(counted: Counted, tmp_path: Path, suffix: str, kind: str) -> None:
    """At every byte of the array's header and of the numbers behind it."""
    expected = counted.embed(tmp_path).features.copy()
    entry = CacheEntry(tmp_path, ("mine",), len(expected))
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / f"{entry.key}{file.suffix}")
    damaged = only(tmp_path, f"*{suffix}")
    whole = damaged.read_bytes()
    found = 0
    for place in range(len(whole)):
        content = bytearray(whole[:place] if kind == "truncated" else whole)
        if kind == "flipped":
            content[place] ^= 1 << place % 8
        damaged.write_bytes(content)
        read = entry.read()
        found += read is None
        if read is not None:
            np.testing.assert_array_equal(read[0], expected)
    damaged.write_bytes(whole)
    assert entry.read() is not None
    # A blank in the header or a digit of the seconds may change: the numbers do not.
    assert found >= (len(whole) - 1 if kind == "truncated" else len(whole) // 4)


def test_error__leaves_nothing_behind(counted: Counted, tmp_path: Path) -> None:
    counted.encoder.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        counted.embed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_full_disk__is_said_with_both_sizes(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 17, 83))  # 7 * 3 * 4 = 84 bytes
    with pytest.raises(UserError, match=r"7 embeddings of 3 numbers take .* GiB free"):
        counted.embed(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 16, 84))
    counted.embed(tmp_path)


def test_settings__are_part_of_the_hash() -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float, function: object = None) -> None:
            super().__init__()
            self.scale = scale
            self.function = function
            self._private = object()

    same = encoder_sha256(Scaled(1.0))
    assert encoder_sha256(Scaled(1.0)) == same
    assert encoder_sha256(Scaled(1.0).eval()) == same
    assert encoder_sha256(Scaled(2.0)) != same
    assert encoder_sha256(nn.Sequential(Scaled(2.0))) != encoder_sha256(nn.Sequential(Scaled(1.0)))
    assert encoder_sha256(RawPixels((1, 2, 8))) != encoder_sha256(RawPixels((1, 4, 4)))
    relu, gelu = (Scaled(1.0, f) for f in (nn.functional.relu, nn.functional.gelu))
    assert encoder_sha256(relu) != encoder_sha256(gelu)
    assert encoder_sha256(Scaled(1.0, lambda: 1)) != encoder_sha256(Scaled(1.0, lambda: 2))


def test_large_arrays__are_part_of_the_hash_to_the_last_number() -> None:
    def hashed(value: object) -> str:
        encoder = Encoder()
        encoder.table = value  # type: ignore[assignment]
        return encoder_sha256(encoder)

    table = np.zeros((256, 8), dtype=np.float32)
    other = table.copy()
    other[128, 4] = 1.0
    for wrapped in (lambda array: array, torch.from_numpy, lambda array: [array], lambda array: {"a": array}):
        assert hashed(wrapped(table)) == hashed(wrapped(table.copy())) != hashed(wrapped(other))


def test_configuration__is_part_of_the_hash() -> None:
    class Configured(nn.Module):
        def __init__(self, tau: float) -> None:
            super().__init__()
            self._tau = tau

        def configuration(self) -> dict[str, float]:
            return {"tau": self._tau}

    assert encoder_sha256(Configured(0.1)) == encoder_sha256(Configured(0.1))
    assert encoder_sha256(Configured(0.1)) != encoder_sha256(Configured(0.2))


def test_hash__covers_unsaved_buffers_and_types() -> None:
    class Normalised(nn.Module):
        def __init__(self, mean: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("mean", mean, persistent=False)

    half = encoder_sha256(Normalised(torch.tensor([0.5])))
    assert encoder_sha256(Normalised(torch.tensor([0.4]))) != half
    assert encoder_sha256(Normalised(torch.tensor(0.5))) != half
    assert encoder_sha256(Normalised(torch.tensor([0.5]).bfloat16())) != half
    assert encoder_sha256(Normalised(torch.tensor([0.5]))) == half


def test_hash__does_not_see_memory_layout_or_compile() -> None:
    convolution = nn.Conv2d(2, 3, 3)
    before = encoder_sha256(convolution)
    assert encoder_sha256(convolution.to(memory_format=torch.channels_last)) == before
    assert encoder_sha256(torch.compile(convolution)) == before
