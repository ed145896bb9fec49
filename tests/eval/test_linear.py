from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lightly_prg.errors import UserError
from lightly_prg.eval import concatenate, evaluate_linear, linear, logistic, probe

CPU = {"device": "cpu"}


def test_separable__is_all_right(make_blobs) -> None:
    train, test = make_blobs(30, spread=0.01), make_blobs(10, spread=0.01, seed=1)
    result = evaluate_linear(train, test, **CPU)
    assert result.top1 == result.validation_top1 == 100.0
    assert result.penalty == (max(linear.PENALTIES),)  # of equal ones the strongest
    assert not result.penalty_at_edge
    assert result.converged


def test_shuffled_labels__are_chance(make_blobs) -> None:
    train = make_blobs(400, classes=4, spread=0.1)
    test = make_blobs(250, classes=4, spread=0.1, seed=1)
    shuffled = np.random.default_rng(0).permutation(train.labels)
    result = evaluate_linear(dataclasses.replace(train, labels=shuffled), test, **CPU)
    assert result.top1 < 65  # clusters are classified as one, so the deviation is large


def test_all_labels__are_sklearn_on_train_and_validation(make_blobs) -> None:
    train, validation, test = (make_blobs(n, spread=2.0, seed=n) for n in (60, 20, 50))
    result = evaluate_linear(train, test, validation=validation, **CPU)
    both = concatenate(train, validation)

    def model(fitted, penalty):
        scaler = StandardScaler().fit(fitted.features.astype(np.float64))
        regression = LogisticRegression(C=1 / (len(fitted) * penalty), tol=1e-9, max_iter=10000)
        regression.fit(scaler.transform(fitted.features), fitted.labels)
        return lambda part: 100 * regression.score(scaler.transform(part.features), part.labels)

    accuracies = [model(train, penalty)(validation) for penalty in linear.PENALTIES]
    best = int(np.argmax(accuracies))
    assert result.penalty == (linear.PENALTIES[best],)
    assert result.validation_top1 == pytest.approx(accuracies[best])
    assert result.top1 == pytest.approx(model(both, result.penalty[0])(test))
    assert (result.num_train, result.num_validation, result.num_test) == (240, 60, 150)
    assert result.top1_std is None
    assert result.draws == 1


def test_float32__gives_the_same(make_blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = make_blobs(60, spread=2.0), make_blobs(50, spread=2.0, seed=1)
    exact = evaluate_linear(train, test, **CPU)
    monkeypatch.setattr(probe, "_DOUBLE_ELEMENTS", 0)
    rough = evaluate_linear(train, test, **CPU)
    assert rough.top1 == pytest.approx(exact.top1, abs=1.0)
    assert rough.gradient_norm != exact.gradient_norm


def test_without_validation__a_tenth_chooses_and_all_are_fitted(make_blobs) -> None:
    train, test = make_blobs(40, spread=2.0), make_blobs(10, spread=2.0, seed=1)
    result = evaluate_linear(train, test, **CPU)
    assert (result.num_train, result.num_validation) == (120, 12)
    empty = evaluate_linear(train, test, validation=train.select([]), **CPU)
    assert empty.per_draw == result.per_draw


def test_test_labels__choose_nothing(make_blobs) -> None:
    train, validation, test = (make_blobs(n, spread=2.0, seed=n) for n in (30, 20, 40))
    for labels in (None, 5):
        options = {"validation": validation, "labels": labels, **CPU}
        first = evaluate_linear(train, test, **options)
        other = dataclasses.replace(test, labels=(test.labels + 1) % 3)
        second = evaluate_linear(train, other, **options)
        assert first.top1 > second.top1 + 20
        unchanged = {"top1": 0.0, "top5": None, "calibration_error": 0.0}
        assert [dataclasses.replace(draw, **unchanged) for draw in first.per_draw] == [
            dataclasses.replace(draw, **unchanged) for draw in second.per_draw
        ]


def test_test_features__are_not_fitted(make_blobs) -> None:
    train, test = make_blobs(30, spread=2.0), make_blobs(20, spread=2.0, seed=1)
    both = evaluate_linear(train, test, **CPU)
    shifted = concatenate(test, dataclasses.replace(test, features=test.features + 1e4))
    result = evaluate_linear(train, shifted, **CPU)
    assert result.penalty == both.penalty
    assert result.per_draw[0].gradient_norm == both.per_draw[0].gradient_norm


@pytest.mark.parametrize(("labels", "fitted"), [(4, 12), (0.1, 9), (0.5, 45)])
def test_few_labels__are_drawn_by_class(make_blobs, labels, fitted: int, monkeypatch) -> None:
    seen = []
    original = probe.Probe.run

    def run(self, part, *arguments, **options):
        seen.append(part)
        return original(self, part, *arguments, **options)

    monkeypatch.setattr(probe.Probe, "run", run)
    train, test = make_blobs(30, spread=1.5), make_blobs(40, spread=1.5, seed=1)
    result = evaluate_linear(train, test, labels=labels, draws=3, validation=test, **CPU)
    assert [np.bincount(part.labels).tolist() for part in seen] == [[fitted // 3] * 3] * 3
    assert len({part.names for part in seen}) == 3
    assert result.num_train == fitted
    assert result.draws == len(result.per_draw) == len(result.penalty) == 3
    accuracies = [draw.top1 for draw in result.per_draw]
    assert result.top1 == pytest.approx(np.mean(accuracies))
    assert result.top1_std == pytest.approx(np.std(accuracies, ddof=1))
    assert len(set(accuracies)) > 1
    assert result.options == {
        "labels": labels,
        "draws": 3,
        "penalties": list(linear.PENALTIES),
        "max_iterations": 200,
    }


def test_few_labels__are_not_those_that_choose(make_blobs, monkeypatch) -> None:
    seen = []
    original = probe.Probe.run

    def run(self, part, chooser, **options):
        seen.append((set(part.names), set(chooser.names)))
        return original(self, part, chooser, **options)

    monkeypatch.setattr(probe.Probe, "run", run)
    train, test = make_blobs(30), make_blobs(5, seed=1)
    evaluate_linear(train, test, labels=27, draws=2, **CPU)
    for drawn, held in seen:
        assert len(drawn) == 81
        assert len(held) == 9
        assert not drawn & held
    with pytest.raises(UserError, match="28 labels of each class"):
        evaluate_linear(train, test, labels=28, **CPU)


def test_more_labels__help(make_blobs) -> None:
    train = make_blobs(200, classes=5, spread=1.5)
    test = make_blobs(100, classes=5, spread=1.5, seed=1)
    one, many = (evaluate_linear(train, test, labels=n, draws=3, **CPU).top1 for n in (1, 100))
    assert 20 < one < many - 10


def test_result__is_the_same_every_time(make_blobs) -> None:
    train, test = make_blobs(30, spread=2.0), make_blobs(20, spread=2.0, seed=1)
    for labels in (None, 3):
        one, two, other = (evaluate_linear(train, test, labels=labels, seed=seed, **CPU) for seed in (0, 0, 1))
        assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(two, seconds=0.0)
        assert one.per_draw != other.per_draw


def test_global_generators__are_left_alone(make_blobs) -> None:
    train, test = make_blobs(20), make_blobs(5, seed=1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    evaluate_linear(train, test, labels=3, **CPU)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_edge_of_the_grid__is_said(make_blobs) -> None:
    train, validation, test = (make_blobs(n, spread=2.0, seed=n) for n in (30, 40, 10))
    options = {"validation": validation, **CPU}
    strong = evaluate_linear(train, test, penalties=(1e4, 1e3, 100.0), **options)
    full = evaluate_linear(train, test, **options)
    grids = {
        "weak end": (100.0, full.penalty[0]),
        "inside": (100.0, full.penalty[0], 1e-9),
        "alone": full.penalty,
    }
    said = {
        name: evaluate_linear(train, test, penalties=grid, **options).penalty_at_edge for name, grid in grids.items()
    }
    assert said == {"weak end": True, "inside": False, "alone": False}
    assert strong.penalty[0] in (1e4, 1e3, 100.0)


def test_rare_class__is_found_where_strong_penalties_see_the_frequent_one_alone(make_embeddings) -> None:
    generator = np.random.default_rng(0)

    def rare(count: int):  # type: ignore[no-untyped-def]
        labels = (generator.random(count) < 0.05).astype(np.int64)
        features = generator.normal(size=(count, 16)).astype(np.float32)
        features[:, 0] += 3 * labels
        return make_embeddings(features, labels)

    result = evaluate_linear(rare(2000), rare(2000), validation=rare(1000), device="cpu")
    assert max(result.penalty) < 1.0
    assert result.top1 > 97.5  # of 95 %, which all strong penalties give


def test_search__goes_on_while_nothing_but_the_frequent_class_was_found(
    make_embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([95.0, 94.0, 93.0, 97.0, 96.0, 95.0])
    monkeypatch.setattr(probe, "_percent", lambda hits: next(found, 50.0))
    draw = np.random.default_rng(0)
    given = make_embeddings(draw.normal(size=(100, 3)), np.arange(100) < 5)
    result = evaluate_linear(given, given, validation=given, **CPU)
    assert result.penalty == (linear.PENALTIES[3],)
    assert result.validation_top1 == 97.0


def test_order_of_penalties__does_not_matter(make_blobs) -> None:
    train, test = make_blobs(30, spread=2.0), make_blobs(20, spread=2.0, seed=1)
    one = evaluate_linear(train, test, penalties=(1e-3, 1.0, 1e-1), **CPU)
    two = evaluate_linear(train, test, penalties=[1.0, 1e-1, 1e-3, 1e-1], **CPU)
    assert one.per_draw == two.per_draw
    assert one.options["penalties"] == [1.0, 0.1, 0.001]


def test_missing_classes__are_misses(make_blobs) -> None:
    train = make_blobs(20, classes=4, spread=0.01)
    test = make_blobs(10, classes=6, spread=0.01, seed=1)
    known = train.select(train.labels != 1)  # the classes that are fitted are 0, 2 and 3
    result = evaluate_linear(known, test.select(test.labels < 4), **CPU)
    assert result.top1 == 75.0
    assert result.num_classes == 4
    assert result.top5 is None
    result = evaluate_linear(known, test.select(test.labels != 1), num_classes=10, **CPU)
    assert result.num_classes == 10
    assert result.top5 == 60.0  # three of five classes, whichever they are ranked


def test_class_of_validation_images_alone__is_fitted_in_the_end(make_blobs) -> None:
    train, validation, test = (make_blobs(30, spread=0.01, seed=seed) for seed in range(3))
    two = train.select(np.flatnonzero(train.labels < 2))
    result = evaluate_linear(two, test, validation=validation, penalties=[0.01], **CPU)
    assert result.validation_top1 == pytest.approx(200 / 3)
    assert result.top1 == 100.0


def test_many_scores__are_taken_a_part_at_a_time(make_blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = make_blobs(200, classes=4), make_blobs(100, classes=4, seed=1)
    whole = evaluate_linear(train, test, **CPU)
    monkeypatch.setattr(logistic, "_SCORES", 4 * 77)
    parts = evaluate_linear(train, test, **CPU)
    assert parts.penalty == whole.penalty
    assert abs(parts.top1 - whole.top1) <= 0.5


def test_top5__is_above_top1(make_blobs) -> None:
    train = make_blobs(40, classes=12, spread=2.0)
    test = make_blobs(40, classes=12, spread=2.0, seed=1)
    result = evaluate_linear(train, test, **CPU)
    assert 8 < result.top1 < result.top5 < 100


def test_unknown_labels__are_left_out(make_blobs) -> None:
    train, test = make_blobs(30, spread=2.0), make_blobs(20, spread=2.0, seed=1)
    unknown = dataclasses.replace(make_blobs(9, seed=2), labels=np.full(27, -1))
    expected = evaluate_linear(train, test, **CPU)
    result = evaluate_linear(concatenate(train, unknown), concatenate(unknown, test), validation=unknown, **CPU)
    assert result.per_draw == expected.per_draw
    assert (result.num_train, result.num_test) == (90, 60)


def test_memory_map__is_read_only_and_enough(make_blobs, tmp_path) -> None:
    train, test = make_blobs(30), make_blobs(10, seed=1)
    np.save(tmp_path / "features.npy", train.features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    result = evaluate_linear(dataclasses.replace(train, features=mapped), test, **CPU)
    assert result.per_draw == evaluate_linear(train, test, **CPU).per_draw


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 0}, "labels is 0"),
        ({"labels": 1.0}, "labels is 1.0"),
        ({"labels": 0.0}, "labels is 0.0"),
        ({"labels": float("nan")}, "labels is nan"),
        ({"labels": True}, "labels is True"),
        ({"labels": 3, "draws": 0}, "draws is 0"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"penalties": ()}, "at least one is needed"),
        ({"penalties": (1.0, 0.0)}, "all above 0"),
        ({"penalties": (float("inf"),)}, "all above 0"),
        ({"num_classes": 2}, "num_classes is 2, and there is a label 2"),
    ],
)
def test_options__are_checked(make_blobs, options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_linear(make_blobs(5), make_blobs(2), **{**CPU, **options})


def test_training_images__need_labels_of_two_classes(make_blobs) -> None:
    train, test = make_blobs(5), make_blobs(2)
    with pytest.raises(UserError, match="No test image has a label"):
        evaluate_linear(train, test.select([]), **CPU)
    train.labels[:] = 2
    with pytest.raises(UserError, match="has the label 2; the linear probe needs two classes"):
        evaluate_linear(train, test, **CPU)
    train.labels[:] = -1
    with pytest.raises(UserError, match="No training image has a label"):
        evaluate_linear(train, test, **CPU)


def test_other_encoder__is_refused(make_blobs) -> None:
    with pytest.raises(ValueError, match="dimensions are 8 and 9 and 8"):
        evaluate_linear(make_blobs(5), make_blobs(5), validation=make_blobs(5, dimension=9), **CPU)


def test_result__says_what_was_measured(make_blobs) -> None:
    result = evaluate_linear(make_blobs(20), make_blobs(10, seed=1), seed=7, **CPU)
    assert result.embedding_dim == 8
    assert result.nfe == 3
    assert result.images_per_second == 90 / 4
    assert result.seconds > 0
    assert result.seed == 7
    assert result.labels is None
