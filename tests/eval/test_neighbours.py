from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval import neighbours
from lightly_prg.eval.neighbours import pick_backend, rank_exactly, search, search_exactly, unit_rows

CPU = torch.device("cpu")
Array = npt.NDArray[np.float32]


def brute_force(bank: Array, query: Array) -> npt.NDArray[np.float64]:
    """All cosine similarities in float64."""
    bank, query = (x.astype(np.float64) for x in (bank, query))
    norms = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(bank, axis=1)
    return query @ bank.T / np.where(norms > 0, norms, 1)


@pytest.fixture(params=[1 << 25, 200])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one piece, and in parts of 25 rows of the bank."""
    monkeypatch.setattr(neighbours, "_CHUNK_ELEMENTS", request.param)


@pytest.fixture
def random_features() -> Callable[[int], Array]:
    generator = np.random.default_rng(0)
    return lambda rows: generator.normal(size=(rows, 8)).astype(np.float32)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("k", [1, 30, 99])
def test_search__is_exact(backend, k: int, random_features) -> None:
    bank, query = random_features(99), random_features(60)
    similarities, rows = search(bank, query, k, backend=backend, device=CPU)
    expected = brute_force(bank, query)
    assert similarities.dtype == torch.float32
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :k])
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :k], atol=1e-6)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("k", [1, 30, 99])
def test_search_exactly__is_brute_force(k: int, random_features) -> None:
    bank, query = random_features(99), random_features(60)
    similarities, rows = search_exactly(bank, query, k, device=CPU)
    expected = brute_force(bank, query)
    assert similarities.dtype == torch.float64
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :k])
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :k], atol=1e-9)


@pytest.mark.usefixtures("chunks")
def test_search_exactly__gives_ties_to_the_lower_row(random_features) -> None:
    distinct, query = random_features(20), random_features(5)
    bank = np.tile(distinct, (4, 1)) * np.repeat(np.float32([1, 2, 0.25, 8]), 20)[:, None]
    _, rows = search_exactly(bank, query, 42, device=CPU)
    order = np.argsort(-brute_force(distinct, query), axis=1)
    expected = (order[:, :, None] + 20 * np.arange(4)).reshape(5, -1)[:, :42]
    np.testing.assert_array_equal(rows, expected)


def test_search_exactly__decodes_negative_similarities() -> None:
    bank = np.array([[-1, 0], [0, 1], [-3, 4], [1, 0]], np.float32)
    similarities, rows = search_exactly(bank, np.array([[2, 0]], np.float32), 4, device=CPU)
    assert rows.tolist() == [[3, 1, 2, 0]]
    np.testing.assert_allclose(similarities[0], [1, 0, -0.6, -1], atol=1e-9)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("found", [31, 38, 99])
def test_rank_exactly__is_search_exactly(found: int, random_features, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, query = random_features(99), random_features(60)
    expected = search_exactly(bank, query, 30, device=CPU)
    nearest = search(bank, query, found, backend="torch", device=CPU)
    whole = []
    monkeypatch.setattr(neighbours, "search_exactly", lambda *_, **__: whole.append(1) or expected)
    similarities, rows = rank_exactly(bank, query, nearest, 30, device=CPU)
    assert torch.equal(rows, expected[1])
    torch.testing.assert_close(similarities, expected[0], rtol=0, atol=2e-9)
    assert not whole  # none of these is a near tie


@pytest.mark.parametrize("found", [21, 80])
def test_rank_exactly__gives_ties_to_the_lower_row(found: int, random_features) -> None:
    # Rows of another length are the same to rounding; of 21 that were found, any may be missing among the first 19.
    bank = np.tile(random_features(1), (80, 1)) * (1 + np.arange(80, dtype=np.float32))[::-1, None]
    bank[1::2] = random_features(40)
    query = bank[:1]
    nearest = search(bank, query, found, backend="torch", device=CPU)
    _, rows = rank_exactly(bank, query, nearest, 19, device=CPU)
    assert rows[0].tolist() == list(range(0, 38, 2))


def test_unit_rows__have_length_one_or_zero() -> None:
    features = np.array([[3, 4], [0, 0], [1e30, 1e30], [1e-30, 0], [0, -2e-42]], np.float32)
    half = np.sqrt(0.5)
    expected = [[0.6, 0.8], [0, 0], [half, half], [1, 0], [0, -1]]
    for dtype, error in ((torch.float32, 1e-6), (torch.float64, 1e-7)):
        rows = unit_rows(features, dtype)
        assert rows.dtype == dtype
        np.testing.assert_allclose(rows[:4], expected[:4], atol=error)
    np.testing.assert_allclose(unit_rows(features, torch.float64), expected, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_unit_rows__refuse_what_is_not_finite(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="NaN"):
        unit_rows(np.array([[1, 2], [3, bad]], np.float32))


def test_unit_rows__take_a_read_only_array() -> None:
    features = np.ones((2, 2), np.float32)
    features.flags.writeable = False
    assert unit_rows(features).square().sum(dim=1).tolist() == pytest.approx([1, 1])


def test_auto__is_faiss_on_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert pick_backend("auto", CPU) == "faiss"
    assert pick_backend("auto", torch.device("cuda")) == "torch"
    assert pick_backend("faiss", torch.device("cuda")) == "faiss"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert pick_backend("auto", CPU) == "torch"
    assert pick_backend("faiss", CPU) == "faiss"


def test_without_faiss__torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("faiss")

    monkeypatch.setattr(neighbours, "import_faiss", missing)
    assert pick_backend("auto", CPU) == "torch"
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        pick_backend("faiss", CPU)


def test_unknown_backend__is_refused() -> None:
    with pytest.raises(UserError, match="'annoy'; allowed are auto, faiss and torch"):
        pick_backend("annoy", CPU)


def in_new_process(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**clean, **environment},
    ).stdout.strip()


def test_evaluators__import_no_faiss() -> None:
    assert in_new_process("import sys, lightly_prg.eval; print('faiss' in sys.modules)") == "False"


@pytest.mark.parametrize("own", [{}, {"OPENBLAS_CORETYPE": "Haswell"}])
def test_importing_faiss__leaves_the_environment(own: dict[str, str]) -> None:
    code = (
        "import os; from lightly_prg.eval.faiss_import import import_faiss; import_faiss(); "
        "print(os.environ.get('OPENBLAS_CORETYPE'))"
    )
    assert in_new_process(code, **own) == str(own.get("OPENBLAS_CORETYPE"))


@pytest.mark.parametrize(
    ("capability", "machine", "kernel"),
    [
        ("AVX512", "x86_64", "SkylakeX"),
        ("AVX2", "AMD64", "Haswell"),
        ("DEFAULT", "x86_64", None),
        ("AVX2", "aarch64", None),
    ],
)
def test_importing_faiss__names_the_kernel(
    capability: str, machine: str, kernel: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightly_prg.eval import faiss_import

    seen = []
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("importlib.import_module", lambda _: seen.append(os.environ.get("OPENBLAS_CORETYPE")))
    faiss_import.import_faiss()
    assert seen == [kernel]
    assert "OPENBLAS_CORETYPE" not in os.environ
