from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call

from lightly_prg import load
from lightly_prg.hardware import pick_precision

TINY = [
    "quickstart",
    "train.epochs=2",
    "train.batch_size=64",
    "method.backbone.channels=8",
    "method.ode.steps=2",
    "data.train_size=200",
    "train.accelerator=cpu",
    "train.precision=32",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run made by the command as a user types it, and what it printed."""
    folder = tmp_path_factory.mktemp("job") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "lightly_prg.cli", "train", *TINY, "--out", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder, done.stdout


class TestTrain:
    def test_folder__holds_what_the_documentation_says(self, finished: tuple[Path, str]) -> None:
        folder, printed = finished
        for name in (
            "recipe.yaml",
            "checkpoints/last.ckpt",
            "encoder.safetensors",
            "encoder.json",
            "metrics.csv",
            "eval/knn.json",
            "eval/linear.json",
            "figures/samples.png",
            "figures/trajectory.png",
            "figures/embedding_map.png",
            "figures/curves.png",
            "report.html",
        ):
            assert (folder / name).stat().st_size > 0, name
        assert str(folder / "report.html") in printed.replace("\n", "")
        assert "raw pixels" in printed
        assert not list(folder.rglob(".*.tmp*"))

    def test_results__carry_the_protocol(self, finished: tuple[Path, str]) -> None:
        results = [json.loads(file.read_text()) for file in (finished[0] / "eval").glob("*.json")]
        judged = [result for result in results if result["evaluator"] in ("knn", "linear")]
        assert {(r["evaluator"], r["encoder"], r.get("labels")) for r in judged} == {
            (evaluator, encoder, labels)
            for encoder in ("run", "raw_pixels", "random_network")
            for evaluator, labels in (("knn", None), ("linear", None), ("linear", 10))
        }
        sha = json.loads((finished[0] / "encoder.json").read_text())["recipe_sha256"]
        for result in judged:
            assert 0 <= result["top1"] <= 100
            assert result["split"] == "test"
            assert result["num_test"] == 599
            assert result["seed"] == 0
            assert result["recipe_sha256"] == sha
            assert result["nfe"] == {"run": 3, "raw_pixels": 0, "random_network": 3}[result["encoder"]]
            assert {"seconds", "images_per_second", "embedding_dim", "num_train"} <= result.keys()
            if result["evaluator"] == "knn":
                assert set(result["by_k"]) == {"10", "20", "100", "200"}
                assert result["by_k"]["20"] == result["top1"]
        by_name = {(r["evaluator"], r["encoder"]): r for r in judged}
        assert by_name["knn", "run"]["num_train"] == 200 + 120
        # The control is a network, not the identity: its features are not those of raw pixels.
        assert by_name["knn", "random_network"]["top1"] != by_name["knn", "raw_pixels"]["top1"]

    def test_raw_pixels__agree_with_scikit_learn(self, finished: tuple[Path, str]) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        from lightly_prg.data import load_data
        from lightly_prg.run import Run

        recipe = Run(finished[0]).recipe
        splits = load_data(recipe.data, seed=recipe.seed)

        def arrays(*parts: str) -> tuple[np.ndarray, np.ndarray]:
            sets = [getattr(splits, part) for part in parts]
            pixels = [s.__getitems__(range(len(s)))[0].flatten(1).float() / 255 for s in sets]
            x = torch.nn.functional.normalize(torch.cat(pixels))
            return x.numpy(), torch.cat([s.labels for s in sets]).numpy()

        x, y = arrays("train", "validation")
        model = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute").fit(x, y)
        result = next(
            r
            for r in map(json.loads, (f.read_text() for f in (finished[0] / "eval").glob("knn*.json")))
            if r["encoder"] == "raw_pixels"
        )
        assert 100 * model.score(*arrays("test")) == pytest.approx(result["top1"], abs=0.2)

    def test_encoder__loads_and_embeds(self, finished: tuple[Path, str]) -> None:
        encoder = load(finished[0])
        assert not encoder.training
        features = encoder(torch.rand(3, 1, 8, 8))
        assert features.shape == (3, encoder.embedding_dim)
        torch.testing.assert_close(load(finished[0])(torch.ones(1, 1, 8, 8)), encoder(torch.ones(1, 1, 8, 8)))

    def test_report__is_one_page_without_outside_references(self, finished: tuple[Path, str]) -> None:
        sources: list[str] = []

        class Reader(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                sources.extend(value or "" for key, value in attrs if key in ("src", "srcset", "href"))

        page = (finished[0] / "report.html").read_text()
        Reader().feed(page)
        assert len([source for source in sources if source.startswith("data:image/png")]) >= 8
        assert not [source for source in sources if not source.startswith(("data:", "#"))]

    def test_second_time__is_refused_and_changes_nothing(
        self, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {file: file.stat().st_mtime_ns for file in finished[0].rglob("*") if file.is_file()}
        code, _, err = call(monkeypatch, capsys, "train", *TINY, "--out", str(finished[0]))
        assert code == 2
        assert "finished run" in err
        assert "--overwrite" in err
        assert before == {file: file.stat().st_mtime_ns for file in finished[0].rglob("*") if file.is_file()}

    def test_dry_run__tells_the_cost_and_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        code, out, _ = call(monkeypatch, capsys, "train", "cifar10_prg_icfm", "--dry-run")
        assert code == 0
        assert "52.54 M" in out
        for word in ("forward", "steps", "training", "NFE", "memory", "epochs: "):
            assert word in out
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "quickstart", "train.epoch=3"), "'train.epochs'"),
        (("train", "quickstat"), "'quickstart'"),
        (("train", "quickstart", "train.epochs=many"), "train.epochs is 'many'"),
        (("train", "fashion_mnist_prg_cpu", "data.root=nowhere"), "nowhere"),
        (("train", "fashion_mnist_prg_cpu", "data.name=folder", "data.image_size=28", "data.root=nowhere"), "nowhere"),
        (("train", "quickstart", "train.batch_size=5000"), "train.batch_size is 5000"),
        (("train", "quickstart", "train.batch_size=5000", "--dry-run"), "train.batch_size is 5000"),
        (("train", "quickstart", "method.backbone.multipliers=[1,1,1,1,1]"), "method.backbone"),
        (("train", "quickstart", "method.feature.block=midle"), "midle"),
        (("train", "quickstart", "method.ode.solver=eular"), "eular"),
        (("train", "quickstart", "data.train_size=100000"), "100000"),
        (("train", "quickstart", "init_from=runs/none"), "runs/none"),
        (("train", "quickstart", "--resume"), "nothing to resume"),
        (("train", "quickstart", "method.feature.block=midle", "--dry-run"), "midle"),
        (("knn", "runs/none"), "no run folder runs/none"),
        (("linear", "."), "not a run folder"),
        (("embed", "runs/none"), "no run folder"),
        (("sample", "runs/none"), "no run folder"),
        (("trajectory", "runs/none"), "no run folder"),
        (("recipes", "show", "quickstat"), "'quickstart'"),
        (("knn", "runs/none", "--preset", "lightly", "--k", "5"), "--preset has its own k"),
        (("linear", "runs/none", "--draws", "3"), "--draws goes with --labels"),
        (("likelihood", "runs/none", "--exact", "--probes", "2"), "--exact draws no probes"),
        (("evaluate", "runs/none", "--resize", "64"), "--weights, --resize and --out go with timm:NAME"),
        (("train", "quickstart", "method.ode={solver: dopri5, grid: quadratic}"), "dopri5 chooses its own steps"),
        (("train", "quickstart", "eval.finetune={mode: head, beta: 1}"), "mode 'head' trains none"),
        (("train", "quickstart", "eval.finetune={feature: {block: midle}}"), "midle"),
        (("train", "quickstart", "eval.finetune={ode: {stpes: 2}}"), "did you mean 'steps'"),
    ],
)
def test_mistake__ends_in_a_sentence_and_exit_code_2(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "no folder is left behind"


class TestRunCommands:
    def test_knn__options_get_a_file_of_their_own(
        self, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = (finished[0] / "eval/knn.json").read_text()
        before = set((finished[0] / "eval").iterdir())
        code, out, _ = call(monkeypatch, capsys, "knn", str(finished[0]), "--k", "5", "--split", "validation")
        assert code == 0
        assert "on validation" in out
        (new,) = set((finished[0] / "eval").iterdir()) - before
        assert json.loads(new.read_text())["split"] == "validation"
        assert (finished[0] / "eval/knn.json").read_text() == own
        new.unlink()

    def test_embed__writes_names_labels_and_the_encoders_own_values(
        self,
        finished: tuple[Path, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from lightly_prg.data import load_data
        from lightly_prg.run import Run

        for file in ("e.npz", "e.parquet"):
            code, _, err = call(monkeypatch, capsys, "embed", str(finished[0]), "--out", str(tmp_path / file))
            assert code == 0, err
        stored = np.load(tmp_path / "e.npz")
        recipe = Run(finished[0]).recipe
        test = load_data(recipe.data, seed=recipe.seed).test
        images, labels, names = test.__getitems__(range(5))
        full = pick_precision("auto", torch.device("cpu")).precision == "32"
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not full):
            expected = load(finished[0])(images.float() / 255).float()
        tolerance = 1e-4 if full else 2e-2  # a rounding of bf16 or two, where other batches are added up otherwise
        np.testing.assert_allclose(stored["embeddings"][:5], expected.numpy(), rtol=tolerance, atol=tolerance)
        assert stored["labels"][:5].tolist() == labels.tolist()
        assert stored["names"][:5].tolist() == list(names)
        import pyarrow.parquet as pq

        table = pq.read_table(tmp_path / "e.parquet").to_pydict()
        np.testing.assert_array_equal(np.array(table["embedding"], dtype=np.float32), stored["embeddings"])
        assert table["name"] == stored["names"].tolist()
        code, _, err = call(monkeypatch, capsys, "embed", str(finished[0]), "--out", str(tmp_path / "e.txt"))
        assert code == 2
        assert ".npz or .parquet" in err

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("sample", "RUN", "--solver", "eular"), "eular"),
            (("trajectory", "RUN", "--solver", "eular"), "allowed are euler"),
            (("likelihood", "RUN", "--solver", "eular"), "reversible_midpoint"),
            (("frechet", "RUN", "--judge", "RUN", "--solver", "eular"), "ddim"),
            (("knn", "RUN", "--device", "tpu"), "'tpu'"),
            (("knn", "RUN", "--split", "train"), "find itself"),
            (("linear", "RUN", "--split", "train"), "take validation or test"),
            (("linear", "RUN", "--split", "train", "--augment"), "take validation or test"),
        ],
    )
    def test_mistaken_option__is_told_and_changes_nothing(
        self,
        finished: tuple[Path, str],
        arguments: tuple[str, ...],
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
        code, _, err = call(monkeypatch, capsys, *(str(finished[0]) if part == "RUN" else part for part in arguments))
        assert code == 2
        assert told in err
        assert "Traceback" not in err
        assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")} == before

    def test_sample_and_trajectory__draw(
        self, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, _ = call(monkeypatch, capsys, "sample", str(finished[0]), "--count", "3", "--steps", "2")
        assert code == 0
        assert "samples.png" in out
        code, out, _ = call(monkeypatch, capsys, "trajectory", str(finished[0]), "--steps", "20")
        assert code == 0
        assert "round-trip error" in out
        code, _, err = call(monkeypatch, capsys, "trajectory", str(finished[0]), "--index", "100000")
        assert code == 2
        assert "100000" in err

    @pytest.mark.parametrize("file", ["encoder.safetensors", "encoder.json"])
    def test_damaged_export__is_told(
        self,
        finished: tuple[Path, str],
        tmp_path: Path,
        file: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name in ("encoder.safetensors", "encoder.json", "recipe.yaml"):
            (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:100])
        code, _, err = call(monkeypatch, capsys, "knn", str(tmp_path))
        assert code == 2
        assert file in err
        assert len(err.strip().splitlines()) == 1


def test_help__answers_within_a_second() -> None:
    seconds = []
    for _ in range(3):
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "lightly_prg.cli", "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.monotonic() - begin)
    assert "quickstart" in done.stdout
    assert min(seconds) < 1.0


def test_recipes_and_doctor__answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(monkeypatch, capsys, "recipes", "list")
    assert code == 0
    assert "fashion_mnist_prg_cpu" in out
    code, out, _ = call(monkeypatch, capsys, "recipes", "show", "quickstart")
    assert code == 0
    assert out.startswith("name: quickstart")
    code, out, _ = call(monkeypatch, capsys, "doctor")
    assert code == 0
    for word in ("torch", "lightly", "faiss", "precision", "device"):
        assert word in out


def test_readme__and_the_gate_run_the_same_test_command() -> None:
    root = Path(__file__).parents[2]
    command = "pip install '.[dev]' && pytest"
    assert command in (root / "README.md").read_text()
    assert (root / ".ci" / "run").read_text().rstrip().endswith(command)
