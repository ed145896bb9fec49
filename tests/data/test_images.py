from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightly_prg.data import decoding
from lightly_prg.data.decoding import read_image, read_images
from lightly_prg.data.images import fit_image, fit_tensor
from lightly_prg.errors import UserError
from lightly_prg.transforms.eight_bits import to_uint8


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(y / height * 5 + k) + np.cos(x / width * 4 + k) for k in range(3)]
    return ((np.stack(waves, -1) + 2) / 4 * 255).astype(np.uint8)


class TestFormats:
    @pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "ppm", "webp", "gif"])
    def test_lossless_formats_give_the_pixels(self, tmp_path: Path, extension: str) -> None:
        pixels = noise(6, 6, 3) // 128 * 255  # eight colours, so that GIF's palette holds them
        path = tmp_path / f"image.{extension}"
        options = {"lossless": True} if extension == "webp" else {}
        Image.fromarray(pixels).save(path, **options)
        image = read_image(str(path), image_size=6, channels=3)
        assert image.dtype == torch.uint8
        assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))

    def test_extension_may_lie(self, tmp_path: Path) -> None:
        path = tmp_path / "really_a_png.jpg"
        Image.fromarray(noise(5, 5, 3)).save(path, format="png")
        image = read_image(str(path), image_size=5, channels=3)
        assert np.array_equal(image.numpy(), noise(5, 5, 3).transpose(2, 0, 1))

    @pytest.mark.parametrize("extension", ["gif", "tiff"])
    def test_first_frame(self, tmp_path: Path, extension: str) -> None:
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
        path = tmp_path / f"film.{extension}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        image = read_image(str(path), image_size=4, channels=3)
        assert image[:, 0, 0].tolist() == [255, 0, 0]

    def test_cmyk_jpeg_is_read_as_colour(self, tmp_path: Path) -> None:
        path = tmp_path / "print.jpg"
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path)
        red, green, blue = read_image(str(path), image_size=8, channels=3)[:, 4, 4].tolist()
        assert red > 240
        assert green < 15
        assert blue < 15


class TestModes:
    def test_transparency_is_laid_over_white(self) -> None:
        pixels = np.zeros((2, 2, 4), np.uint8)
        pixels[..., 3] = [[0, 255], [128, 64]]
        image = fit_image(Image.fromarray(pixels, "RGBA"), image_size=2, channels=1)
        assert image[0].tolist() == [[255, 0], [127, 191]]

    def test_grey_with_alpha(self) -> None:
        image = Image.new("LA", (2, 2), (100, 0))
        assert fit_image(image, image_size=2, channels=1).unique().tolist() == [255]

    def test_palette_with_a_transparent_colour(self, tmp_path: Path) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putpixel((1, 0), 1)
        image = image.resize((4, 2), Image.Resampling.NEAREST)
        image.save(tmp_path / "p.png", transparency=0)
        pixels = np.asarray(fit_image(Image.open(tmp_path / "p.png"), image_size=2, channels=3))
        # The central square is one column of either colour.
        assert pixels[:, 0, 0].tolist() == [255, 255, 255]
        assert pixels[:, 0, 1].tolist() == [200, 100, 50]

    @pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
    def test_sixteen_bit_grey_is_scaled(self, tmp_path: Path, byte_order: str) -> None:
        deep = np.array([[0, 257], [32768, 65535]], np.uint16)
        for extension in ("png", "tiff"):
            path = tmp_path / f"deep.{extension}"
            Image.fromarray(deep.astype(byte_order)).save(path)
            image = read_image(str(path), image_size=2, channels=1)
            assert image[0].tolist() == [[0, 1], [128, 255]]

    def test_one_bit(self) -> None:
        image = Image.fromarray(np.array([[True, False], [False, True]]))
        assert fit_image(image, image_size=2, channels=1)[0].tolist() == [[255, 0], [0, 255]]

    def test_floating_point_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "f.tiff"
        Image.fromarray(np.ones((4, 4), np.float32)).save(path)
        with pytest.raises(UserError, match=r"f\.tiff: floating-point pixels have no fixed range"):
            read_image(str(path), image_size=4, channels=1)

    def test_grey_is_repeated(self) -> None:
        image = fit_image(Image.fromarray(noise(3, 3)), image_size=3, channels=3)
        assert image.shape == (3, 3, 3)
        assert all(np.array_equal(channel.numpy(), noise(3, 3)) for channel in image)

    def test_colour_becomes_grey_alike_for_pillow_and_tensors(self) -> None:
        pixels = noise(64, 64, 3)
        expected = np.asarray(Image.fromarray(pixels).convert("L"))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        assert np.array_equal(fit_image(Image.fromarray(pixels), image_size=64, channels=1)[0].numpy(), expected)
        assert np.array_equal(fit_tensor(tensor[None], image_size=64, channels=1)[0, 0].numpy(), expected)


class TestGeometry:
    @pytest.mark.parametrize(("height", "width"), [(8, 13), (13, 8), (8, 9)])
    def test_centre_is_cut_out_exactly(self, height: int, width: int) -> None:
        pixels = noise(height, width, 3)
        top, left = (height - 8) // 2, (width - 8) // 2
        expected = pixels[top : top + 8, left : left + 8].transpose(2, 0, 1)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = fit_image(Image.fromarray(pixels), image_size=8, channels=3)
        assert np.array_equal(image.numpy(), expected)
        assert np.array_equal(fit_tensor(tensor, image_size=8, channels=3)[0].numpy(), expected)

    def test_shorter_side_is_resized_and_centred(self) -> None:
        # Three vertical bands of 20 x 20: the central square is the green one alone.
        pixels = np.zeros((20, 60, 3), np.uint8)
        for band in range(3):
            pixels[:, 20 * band : 20 * band + 20, band] = 255
        image = fit_image(Image.fromarray(pixels), image_size=10, channels=3)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        for square in (image, fit_tensor(tensor, image_size=10, channels=3)[0]):
            assert square.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]

    def test_resize_is_antialiased(self) -> None:
        pixels = noise(64, 64)
        image = fit_image(Image.fromarray(pixels), image_size=16, channels=1)
        tensor = fit_tensor(torch.from_numpy(pixels)[None, None], image_size=16, channels=1)
        for small in (image, tensor[0]):
            # Uniform noise has a standard deviation of 74; an average of 4 x 4 leaves a quarter.
            assert 10 < small.float().std() < 30

    @pytest.mark.parametrize(("source", "target"), [(28, 32), (50, 32)])
    def test_tensors_and_pillow_agree(self, source: int, target: int) -> None:
        pixels = smooth(source, source)
        image = fit_image(Image.fromarray(pixels), image_size=target, channels=3)
        stacked = torch.from_numpy(pixels).permute(2, 0, 1).expand(3, -1, -1, -1)
        tensor = fit_tensor(stacked, image_size=target, channels=3)
        assert tensor.shape == (3, 3, target, target)
        assert (tensor.int() - image.int()).abs().max() <= 2

    def test_fitting_tensors_are_not_copied(self) -> None:
        images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        assert fit_tensor(images, image_size=4, channels=3).data_ptr() == images.data_ptr()

    def test_many_images_are_resized_in_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = torch.from_numpy(noise(7, 1, 6, 6))
        whole = fit_tensor(images, image_size=4, channels=3)
        monkeypatch.setattr("lightly_prg.data.images._IMAGES_A_RESIZE", 3)
        assert torch.equal(fit_tensor(images, image_size=4, channels=3), whole)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
    def test_all_orientations_come_out_upright(self, tmp_path: Path, orientation: int, extension: str) -> None:
        upright = np.zeros((16, 16, 3), np.uint8)
        upright[:8, :8] = (255, 0, 0)
        upright[:8, 8:] = (0, 255, 0)
        upright[8:, :8] = (0, 0, 255)
        # What a camera stores, so that the EXIF tag undoes it.
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright, 1),
            7: np.rot90(upright, 2).transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"photo.{extension}"
        options = {"quality": 95, "subsampling": 0} if extension == "jpg" else {}
        options |= {"lossless": True} if extension == "webp" else {}
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
        image = read_image(str(path), image_size=16, channels=3)
        corners = image[:, [3, 3, 12], [3, 12, 3]].T.float()
        expected = 255 * torch.eye(3)
        assert (corners - expected).abs().max() < 16

    def test_broken_exif_is_no_reason_to_refuse_a_photo(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(image: Image.Image) -> None:
            raise SyntaxError("not a TIFF file")

        # What Pillow did before it became lenient.
        monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
        path = tmp_path / "photo.jpg"
        Image.new("RGB", (8, 8), "white").save(path, exif=b"Exif\0\0garbage and more garbage")
        assert read_image(str(path), image_size=8, channels=3).min() > 250


class TestJpeg:
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_shortcut_gives_pillows_pixels(self, mode: str, subsampling: int, progressive: bool, channels: int) -> None:
        file = io.BytesIO()
        Image.fromarray(noise(27, 27, 3)).convert(mode).save(
            file, "JPEG", subsampling=subsampling, progressive=progressive
        )
        shortcut = decoding._decode_fitting_jpeg(file.getvalue(), 27, channels)
        assert shortcut is not None
        expected = fit_image(Image.open(file), image_size=27, channels=channels)
        assert np.array_equal(shortcut, expected.numpy())

    def test_large_photos_are_hardly_changed_by_decoding_at_a_fraction(self, tmp_path: Path) -> None:
        path = tmp_path / "large.jpg"
        Image.fromarray(smooth(300, 400)).save(path, quality=95)
        quick = read_image(str(path), image_size=32, channels=3)
        full = fit_image(Image.open(path), image_size=32, channels=3)
        assert (quick.int() - full.int()).abs().max() <= 4

    def test_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "half.jpg"
        Image.fromarray(noise(32, 32, 3)).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=r"Cannot read the image .*half\.jpg: image file is truncated"):
            read_image(str(path), image_size=32, channels=3)


class TestManyFiles:
    def write(self, folder: Path, count: int) -> list[str]:
        paths = [folder / f"{index:03d}.png" for index in range(count)]
        for index, path in enumerate(paths):
            Image.new("L", (3, 3), index % 256).save(path)
        return [str(path) for path in paths]

    def test_order_and_progress(self, tmp_path: Path) -> None:
        calls: list[tuple[int, int]] = []
        images = read_images(
            self.write(tmp_path, 300),
            image_size=3,
            channels=1,
            progress=lambda done, total: calls.append((done, total)),
        )
        assert images[:, 0, 0, 0].tolist() == [index % 256 for index in range(300)]
        assert [done for done, _ in calls] == sorted({done for done, _ in calls})
        assert calls[-1] == (300, 300)
        assert {total for _, total in calls} == {300}

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"])
    def test_first_broken_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        paths = self.write(tmp_path, 300)
        for index in (290, 140, 141):
            Path(paths[index]).write_bytes(content)
        with pytest.raises(UserError, match=r"Cannot read the image .*140\.png"):
            read_images(paths, image_size=3, channels=1)

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"gone\.png"):
            read_images([str(tmp_path / "gone.png")], image_size=3, channels=1)

    def test_no_files(self) -> None:
        assert read_images([], image_size=3, channels=1).shape == (0, 1, 3, 3)


class TestToUint8:
    def test_every_level_survives(self) -> None:
        levels = torch.arange(256, dtype=torch.uint8)
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(to_uint8(levels.to(dtype) / 255), levels)
        assert to_uint8(levels) is levels
        assert to_uint8(torch.tensor([0.9979, 0.9981])).tolist() == [254, 255]

    @pytest.mark.parametrize("value", [-1.0, 1.5, float("nan")])
    def test_other_ranges_are_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match="leave the normalisation out"):
            to_uint8(torch.tensor([0.5, value]))

    def test_other_types_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"torch\.int64"):
            to_uint8(torch.tensor([1, 2]))
