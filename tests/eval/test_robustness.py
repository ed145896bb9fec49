from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import result_to_dict
from lightly_prg.eval.plot_robustness import plot_corruptions, plot_robustness
from lightly_prg.eval.robustness import evaluate_robustness
from lightly_prg.plotting.style import LIGHT

# By name, since a package may export a function of the name of its module.
plot_module = importlib.import_module("lightly_prg.eval.plot_robustness")

REFERENCE = {"brightness": 60.0, "contrast": 20.0}


def image_set(images: Tensor, labels: list[int], classes: int = 2) -> ImageSet:
    names = [f"{row}.png" for row in range(len(images))]
    return ImageSet(
        images, labels=torch.tensor(labels), names=names, class_names=[str(number) for number in range(classes)]
    )


def two_greys(unknown: int = 0) -> ImageSet:
    """Four constant images of level 100, label 0, and 160, label 1; then black ones without a label."""
    levels = torch.tensor([100, 160, 100, 160, *[0] * unknown], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    return image_set(images, [0, 1, 0, 1, *[-1] * unknown])


def bright(images: Tensor) -> Tensor:
    """Scores of two classes: dark and bright, the border at 128 of 255."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([torch.full_like(mean, 128 / 255), mean], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("unknown", [0, 3])
def test_two_greys__by_hand(batch_size: int, unknown: int) -> None:
    # 100 becomes 112, 125, 138, 151 and 176 by brightness: the dark half is wrong from severity 3 on.
    result = evaluate_robustness(
        bright,
        two_greys(unknown),
        corruptions=("brightness", "contrast"),
        batch_size=batch_size,
        reference_errors=REFERENCE,
        device="cpu",
    )
    assert result.clean_top1 == 100.0
    assert result.error == {
        "brightness": {1: 0.0, 2: 0.0, 3: 50.0, 4: 50.0, 5: 50.0},
        "contrast": dict.fromkeys((1, 2, 3, 4, 5), 0.0),
    }
    assert result.mean_corruption_error == pytest.approx(15.0)
    assert result.normalised_mce == pytest.approx(25.0)  # half of 30 / 60 and 0 / 20
    assert (result.num_test, result.num_corrupted, result.num_classes) == (4, 4, 2)
    assert result.source == "computed"
    assert result.seconds > 0
    assert result.options == {
        "corruptions": ["brightness", "contrast"],
        "severities": [1, 2, 3, 4, 5],
        "max_images": None,
        "reference_errors": REFERENCE,
    }


def test_defaults__are_all_75_conditions() -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate_robustness(
        bright, two_greys(), device="cpu", progress=lambda done, total: seen.append((done, total))
    )
    assert [len(row) for row in result.error.values()] == [5] * 15
    assert result.mean_corruption_error == pytest.approx(
        np.mean([error for row in result.error.values() for error in row.values()])
    )
    assert result.normalised_mce is None
    assert result.source == "computed: frost procedural"
    assert seen == [(4 * done, 4 * 76) for done in range(1, 77)]
    assert result_to_dict(result)["error"]["fog"].keys() == {"1", "2", "3", "4", "5"}


def collected(dataset: ImageSet, batch_size: int, seed: int = 0, max_images: int | None = None) -> list[int]:
    """Hashes of all images that are classified, in an order that does not depend on the batches."""
    images: list[int] = []

    def predict(batch: Tensor) -> Tensor:
        images.extend(hash(image.numpy().tobytes()) for image in batch)
        return torch.zeros(len(batch), 2)

    evaluate_robustness(
        predict,
        dataset,
        corruptions=("shot_noise", "snow"),
        severities=(2, 5),
        batch_size=batch_size,
        seed=seed,
        max_images=max_images,
        device="cpu",
    )
    return images


def test_images__do_not_depend_on_the_batches() -> None:
    # More than one block of 250.
    pixels = torch.randint(0, 256, (260, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = image_set(pixels, [0, 1] * 130)
    one = collected(dataset, 260)
    assert one == collected(dataset, 7)
    assert len(set(one)) == 5 * 260
    # Another seed changes what is corrupted, not what is clean.
    other = collected(dataset, 260, seed=1)
    assert len(set(one) & set(other)) == 260


def test_max_images__draws_the_same_for_all_conditions() -> None:
    pixels = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    dataset = image_set(pixels, [-1, *[1] * 39])
    levels: list[int] = []

    def predict(batch: Tensor) -> Tensor:
        levels.extend((255 * batch[:, 0, 0, 0]).round().int().tolist())
        return torch.zeros(len(batch), 2)

    result = evaluate_robustness(
        predict, dataset, corruptions=("contrast",), severities=(1,), max_images=6, device="cpu"
    )
    assert (result.num_test, result.num_corrupted, result.clean_top1) == (6, 6, 0.0)
    assert levels[:6] == levels[6:] == sorted(set(levels))
    assert levels[:6] != [1, 2, 3, 4, 5, 6]
    assert 0 not in levels
    many = evaluate_robustness(bright, two_greys(), corruptions=("fog",), max_images=100, device="cpu")
    assert many.num_test == 4


def test_module__is_evaluated_and_comes_back_as_it_was() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.9)

        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return bright(self.dropout(images))

    module = Classifier().train()
    result = evaluate_robustness(module, two_greys(), corruptions=("contrast",), device="cpu")
    assert (result.clean_top1, result.mean_corruption_error) == (100.0, 0.0)
    assert module.training
    assert module.dropout.training


def write_files(folder: Path) -> tuple[Path, ImageSet]:
    """A clean set of two colours, and fog of four images that is as bright as ten times the severity."""
    clean = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    clean[1] = 255
    fog = np.zeros((20, 32, 32, 3), dtype=np.uint8)
    fog += (10 * (1 + np.arange(20) // 4)).astype(np.uint8)[:, None, None, None]
    np.save(folder / "fog.npy", fog)
    np.save(folder / "labels.npy", np.tile([0, 0, 0, 1], 5).astype(np.uint8))
    return folder, image_set(clean, [0, 1])


def test_files__take_the_place_of_computed_images(tmp_path: Path) -> None:
    folder, clean = write_files(tmp_path)

    def predict(images: Tensor) -> Tensor:  # bright from 25 on
        return torch.stack([torch.full((len(images),), 25 / 255), images.mean(dim=(1, 2, 3))], dim=1)

    result = evaluate_robustness(predict, clean, corruptions=("fog",), folder=folder, batch_size=3, device="cpu")
    assert result.error == {"fog": {1: 25.0, 2: 25.0, 3: 75.0, 4: 75.0, 5: 75.0}}
    assert (result.clean_top1, result.source) == (100.0, "files")
    assert (result.num_test, result.num_corrupted) == (2, 4)
    few = evaluate_robustness(
        predict, clean, corruptions=("fog",), severities=(4,), folder=folder, max_images=1, device="cpu"
    )
    assert (few.num_test, few.num_corrupted) == (1, 1)


def test_files__have_to_fit_the_clean_set(tmp_path: Path) -> None:
    folder, clean = write_files(tmp_path)
    with pytest.raises(UserError, match=r"colour images of 32 pixels, the data set images of shape \(1, 16, 16\)"):
        evaluate_robustness(bright, two_greys(), corruptions=("fog",), folder=folder, device="cpu")
    with pytest.raises(UserError, match=r"no file .*snow\.npy"):
        evaluate_robustness(bright, clean, corruptions=("fog", "snow"), folder=folder, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruptions": ()}, "At least one corruption"),
        ({"severities": ()}, "one severity"),
        ({"corruptions": ("fog", "rain")}, "no corruption 'rain'"),
        ({"severities": (1, 9)}, "severity is 9"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_images": 0}, "max_images is 0"),
        ({"num_classes": 3}, "scores of 2 classes, and 3 are needed"),
        ({"reference_errors": {"fog": 1.0}, "corruptions": ("fog", "snow")}, "above 0 for snow"),
        ({"reference_errors": {"fog": 0.0}, "corruptions": ("fog",)}, "above 0 for fog"),
        ({"device": "abacus"}, "'abacus' is not available"),
    ],
)
def test_options__are_checked(options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_robustness(bright, two_greys(), **{"device": "cpu", **options})


def test_labels__are_checked() -> None:
    grey = two_greys().subset([0, 1])
    with pytest.raises(UserError, match="No test image has a label"):
        evaluate_robustness(bright, two_greys(2).subset([4, 5]), device="cpu")
    with pytest.raises(UserError, match="There is a label 1, and the scores are of 1 classes"):
        evaluate_robustness(lambda images: bright(images)[:, :1], grey, device="cpu")


def test_scores__are_checked() -> None:
    with pytest.raises(ValueError, match=r"Scores of shape \(4,\) came of 4 images"):
        evaluate_robustness(lambda images: bright(images)[:, 0], two_greys(), device="cpu")
    with pytest.raises(FloatingPointError, match="NaN"):
        evaluate_robustness(lambda images: bright(images) * float("nan"), two_greys(), device="cpu")


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[[Path], None]) -> Figure:
    """The light figure that a plotting function draws, before it becomes pixels."""
    figures: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(plot_module, "write_figure", lambda _, make: figures.append(make(LIGHT)))
        draw(Path("figure.png"))
    return figures[0]


def test_plot__shows_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"clean_top1": 90.0, "error": {"snow": {"1": 20.0, "4": 60.0}, "fog": {"1": 10.0, "4": 20.0}}}
    other = {"clean_top1": 80.0, "error": {"fog": {1: 30.0, 4: 40.0}}}
    figure = drawn(monkeypatch, lambda path: plot_robustness({"one": one, "other": other}, path))
    lines, bars = figure.axes
    points = [(list(line.get_xdata()), list(line.get_ydata())) for line in lines.lines]
    assert points == [([0, 1, 4], [90.0, 85.0, 60.0]), ([0, 1, 4], [80.0, 70.0, 60.0])]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["snow", "fog"]
    widths = [[bar.get_width() for bar in container] for container in bars.containers]
    assert widths == [[60.0, 85.0], [65.0]]
    with pytest.raises(ValueError, match="At least one result"):
        plot_robustness({}, Path("none.png"))


def test_gallery__shows_every_corruption(monkeypatch: pytest.MonkeyPatch) -> None:
    images = next(iter(two_greys().loader(batch_size=2)))[0]
    figure = drawn(monkeypatch, lambda path: plot_corruptions(images, path, severity=5))
    # Three blocks of clean and five corruptions, of two images each.
    assert len(figure.axes) == 3 * 6 * 2
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title for title in titles if title != "clean"] == [
        "gaussian noise", "shot noise", "impulse noise", "defocus blur", "glass blur", "motion blur", "zoom blur",
        "snow", "frost", "fog", "brightness", "contrast", "elastic", "pixelate", "JPEG",
    ]  # fmt: skip
    (bright_cell,) = [axes for axes in figure.axes if axes.get_title() == "brightness"]
    assert float(np.asarray(bright_cell.images[0].get_array()).mean()) == pytest.approx(176 / 255)
    with pytest.raises(ValueError, match="At least one image"):
        plot_corruptions(images[:0], Path("none.png"))


def test_plot__is_written_in_both_themes(tmp_path: Path) -> None:
    result = evaluate_robustness(bright, two_greys(), corruptions=("fog",), severities=(1, 4), device="cpu")
    plot_robustness({"one": result_to_dict(result)}, tmp_path / "r.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r-dark.png", "r.png"]
