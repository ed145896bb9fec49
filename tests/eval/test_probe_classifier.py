from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import Embeddings, RawPixels, embed, evaluate_linear, probe
from lightly_prg.eval.probe_classifier import ProbeClassifier, fit_probe
from lightly_prg.eval.robustness import evaluate_robustness

SHAPE = (1, 16, 16)
ENCODER = RawPixels(SHAPE)


def noisy_classes(per_class: int, seed: int, classes: int = 5) -> ImageSet:
    """Images around one random pattern for each class, hard to tell apart."""
    patterns = torch.rand(classes, *SHAPE, generator=torch.Generator().manual_seed(1000))
    labels = torch.arange(classes).repeat(per_class)
    noise = torch.randn(len(labels), *SHAPE, generator=torch.Generator().manual_seed(seed))
    images = (255 * (0.5 + 0.15 * (patterns[labels] - 0.5) + 0.2 * noise)).clamp(0, 255).to(torch.uint8)
    names = [f"{row}.png" for row in range(len(labels))]
    return ImageSet(images, labels=labels, names=names, class_names=[str(number) for number in range(classes)])


def embedded(dataset: ImageSet) -> Embeddings:
    return embed(ENCODER, dataset, device="cpu")


@pytest.mark.parametrize("with_validation", [False, True])
@pytest.mark.parametrize("double_elements", [0, 1 << 22])
def test_accuracy__is_that_of_evaluate_linear(with_validation: bool, double_elements: int, monkeypatch) -> None:
    monkeypatch.setattr(probe, "_DOUBLE_ELEMENTS", double_elements)  # float32 or float64
    train, test = noisy_classes(30, 0), noisy_classes(60, 1)
    validation = embedded(noisy_classes(10, 2)) if with_validation else None
    expected = evaluate_linear(embedded(train), embedded(test), validation=validation, seed=3, device="cpu")
    classifier = fit_probe(embedded(train), validation, encoder=ENCODER, seed=3, device="cpu")
    result = evaluate_robustness(classifier, test, corruptions=("fog",), severities=(1,), device="cpu")
    assert result.clean_top1 == expected.top1
    assert 30 < result.clean_top1 < 99
    assert classifier.penalty == expected.penalty[0]
    assert classifier.validation_top1 == expected.validation_top1
    assert classifier.mean.dtype == (torch.float64 if double_elements else torch.float32)
    assert result.num_classes == 5


def test_scores__are_those_of_the_fit() -> None:
    identity = nn.Flatten()
    classifier = ProbeClassifier(
        identity,
        mean=torch.tensor([1.0, 2.0]),
        scale=torch.tensor([0.5, 10.0]),
        weight=torch.tensor([[1.0, 0.0], [1.0, -1.0]]),
        bias=torch.tensor([0.0, 7.0]),
        classes=torch.tensor([2, 0]),
        num_classes=4,
        penalty=0.1,
        validation_top1=50.0,
    )
    # ((5 - 1) / 2, (2.5 - 2) * 10) = (2, 5): scores 2 and 2 - 5 + 7 = 4, of the classes 2 and 0.
    scores = classifier(torch.tensor([[[[5.0, 2.5]]]]))
    assert scores.tolist() == [[4.0, float("-inf"), 2.0, float("-inf")]]
    assert classifier.encoder is identity
    assert set(classifier.state_dict()) == {"mean", "scale", "weight", "bias", "classes"}


def test_missing_class__is_never_chosen(make_blobs) -> None:
    train = make_blobs(20, spread=0.2)
    train.labels[train.labels == 1] = 3  # classes 0, 2 and 3
    classifier = fit_probe(train, encoder=nn.Identity(), num_classes=6, device="cpu")
    scores = classifier(torch.from_numpy(train.features))
    assert scores.shape == (60, 6)
    assert scores.isfinite()[0].tolist() == [True, False, True, True, False, False]
    assert float((scores.argmax(dim=1).numpy() == train.labels).mean()) > 0.9


def test_gradient__reaches_the_encoder(make_blobs) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(8))

        def forward(self, images: Tensor) -> Tensor:
            return images * self.factor

    encoder = Scaled()
    classifier = fit_probe(make_blobs(10), encoder=encoder, device="cpu")
    classifier(torch.rand(4, 8)).logsumexp(dim=1).sum().backward()
    assert encoder.factor.grad is not None
    assert encoder.factor.grad.abs().sum() > 0


def test_unknown_labels__are_left_out(make_blobs) -> None:
    train = make_blobs(20)
    known = fit_probe(train, encoder=nn.Identity(), device="cpu")
    labels = np.concatenate([[-1, -1], train.labels])
    noisy = dataclasses.replace(
        train,
        features=np.concatenate([1e3 * np.ones((2, 8), np.float32), train.features]),
        labels=labels,
        names=tuple(map(str, range(len(labels)))),
    )
    again = fit_probe(noisy, encoder=nn.Identity(), device="cpu")
    assert torch.equal(again.weight, known.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalties": ()}, "at least one is needed"),
        ({"penalties": (1.0, -1.0)}, "all above 0"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"num_classes": 2}, "num_classes is 2, and there is a label 2"),
    ],
)
def test_options__are_checked(make_blobs, options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_probe(make_blobs(5), encoder=nn.Identity(), **{"device": "cpu", **options})


def test_embeddings__are_checked(make_blobs) -> None:
    with pytest.raises(ValueError, match="dimensions are 8 and 9"):
        fit_probe(make_blobs(5), make_blobs(5, dimension=9), encoder=nn.Identity(), device="cpu")
    train = make_blobs(5)
    train.labels[:] = 1
    with pytest.raises(UserError, match="labelled training images of two classes"):
        fit_probe(train, encoder=nn.Identity(), device="cpu")
