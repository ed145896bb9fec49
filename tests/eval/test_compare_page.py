from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.compare import write_comparison
from lightly_prg.eval.comparison.files import read_comparison
from lightly_prg.eval.comparison.plot import mean_robustness, plot_accuracy_against_cost
from lightly_prg.eval.comparison.table import latex_text, table_rows
from lightly_prg.plotting.style import LIGHT

NASTY = "_A|b & <i>50_%</i> $\\frac$"  # matplotlib hides the one and reads a formula into the other
ACCURACIES = {("PRG", 0): (90.0, 80.0), ("PRG", 1): (92.0, 84.0), (NASTY, 0): (93.0, 81.0), (NASTY, 1): (94.0, 85.0)}


def robust(error: float) -> dict[str, Any]:
    return {
        "clean_top1": 90.0,
        "mean_corruption_error": error,
        "error": {"gaussian_noise": {"1": error, "5": error}, "fog": {"1": error, "5": error}},
        "num_test": 500,
        "num_corrupted": 500,
        "of": "probe",
    }


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cells = []
    for (label, seed), (knn, linear) in ACCURACIES.items():
        key = f"{'prg' if label == 'PRG' else 'nasty'}-seed{seed}"
        cells.append({"label": label, "seed": seed, "key": key, "run": f"elsewhere/{key}"})
        results: dict[str, dict[str, Any]] = {
            "knn": {"top1": knn, "k": 20, "num_test": 500, "images_per_second": 1234.0},
            "linear": {"top1": linear, "labels": None, "num_test": 500, "converged": True},
            "robustness": robust(30.0 + seed),
            "common_dimension": {
                "dimension": 8,
                "knn": {"top1": knn - 5, "num_test": 500},
                "linear": {"top1": linear - 5, "num_test": 500},
            },
            "facts": {
                "method": "prg",
                "feature": {"source": "block", "block": "middle", "tau": 0.2, "pool": "mean"},
                "input_shape": [1, 8, 8],
                "parameters": 5_000_000,
                "embedding_dim": 64,
                "nfe": 3,
                "embedding_macs": 1e9,
                "training_macs": 2e12,
                "data": {"name": "digits", "num_train": 100, "num_validation": 10, "num_test": 500},
                "training": {"steps": 40, "cpu_seconds": 20.0 + seed, "wall_seconds": 11.0, "device": "cpu"},
                "versions": {"torch": "2.14.0"},
            },
        }
        for name, result in results.items():
            write(tmp_path / "results" / key / f"{name}.json", {"result": result})
        metrics = tmp_path / "runs" / key / "metrics.csv"
        metrics.parent.mkdir(parents=True)
        metrics.write_text("step,train_loss\n10,2.0\n40,1.0\n", encoding="utf-8")
    write(
        tmp_path / "comparison.json",
        {
            "name": "two",
            "description": "What <b>it</b> tells.",
            "methods": ["PRG", NASTY],
            "reference": "PRG",
            "seeds": [0, 1],
            "budget": {"kind": "cpu_seconds", "amount": 20},
            "scan": True,
            "may_differ": [],
            "split": "test",
            "evaluators": ["knn", "linear", "robustness", "common_dimension"],
            "cells": cells,
        },
    )
    return tmp_path


def facts_of(folder: Path, key: str) -> tuple[Path, Any]:
    path = folder / "results" / key / "facts.json"
    return path, json.loads(path.read_text("utf-8"))


def test_budget__that_was_missed_is_told(folder: Path) -> None:
    about = json.loads((folder / "comparison.json").read_text("utf-8"))
    write(folder / "comparison.json", {**about, "promised": {"PRG": 20.0, NASTY: None}})
    assert read_comparison(folder).notes == ()  # 20.5 of 20 seconds
    for seed, seconds in ((0, 26.0), (1, 22.0)):
        path, content = facts_of(folder, f"prg-seed{seed}")
        content["result"]["training"]["cpu_seconds"] = seconds
        write(path, content)
    assert read_comparison(folder).notes == ("PRG: its training took 24 of 20 CPU seconds.",)


def test_parts_that_are_missing_or_unfinished__are_told_in_every_table(folder: Path) -> None:
    (folder / "results" / "prg-seed0" / "linear.json").unlink()
    path = folder / "results" / "prg-seed1" / "common_dimension.json"
    content = json.loads(path.read_text("utf-8"))
    content["result"]["linear"] |= {"converged": False, "penalty_at_edge": True}
    write(path, content)
    told = (
        "PRG: linear of seed 1 alone so far.",
        "PRG, seed 1: the fit of linear after PCA to 8 was stopped before it converged.",
        "PRG, seed 1: the penalty of linear after PCA to 8 that was chosen ends its grid.",
    )
    assert read_comparison(folder).notes == told
    write_comparison(folder)
    for name in ("table.md", "comparison.html"):
        text = (folder / name).read_text("utf-8")
        assert all(note in text for note in told)


def test_fine_tuned_model__is_told_with_its_own_feature_and_cost(folder: Path) -> None:
    about = json.loads((folder / "comparison.json").read_text("utf-8"))
    write(folder / "comparison.json", {**about, "evaluators": [*about["evaluators"], "finetune"], "data": "cats"})
    model = {"feature": {"block": None, "pool": "mean"}, "embedding_dim": 128, "nfe": 1, "learning_rate": 0.003}
    for seed in (0, 1):
        result = {"top1": 90.0, "num_train": 5000, "num_test": 500, **model}
        write(folder / "results" / f"prg-seed{seed}" / "finetune.json", {"result": result})
    write_comparison(folder)
    told = "PRG, fine-tuned: output, pooling mean, 128 numbers, NFE 1, learning rate 0.003."
    assert f"* {told}" in (folder / "table.md").read_text("utf-8")
    page = (folder / "comparison.html").read_text("utf-8")
    assert f"<li>{told}</li>" in page
    assert "data set <b>cats</b>" in page


def test_choice_at_the_end_of_its_grid__is_told(folder: Path) -> None:
    for seed in (0, 1):
        path = folder / "results" / f"prg-seed{seed}" / "linear.json"
        content = json.loads(path.read_text("utf-8"))
        content["result"]["penalty_at_edge"] = seed == 1
        write(path, content)
    assert read_comparison(folder).notes == ("PRG, seed 1: the penalty of linear that was chosen ends its grid.",)


def test_embedding_speed__is_that_of_all_seeds_together(folder: Path) -> None:
    path = folder / "results" / "prg-seed1" / "knn.json"
    content = json.loads(path.read_text("utf-8"))
    content["result"]["images_per_second"] = 1234.0 / 3
    write(path, content)
    # One image at one second, one at three: two images in four.
    assert table_rows(read_comparison(folder))[0].costs["images_per_second"] == pytest.approx(1234.0 / 2)


def test_one_seed__is_said_once(folder: Path) -> None:
    about = json.loads((folder / "comparison.json").read_text("utf-8"))
    cells = [cell for cell in about["cells"] if cell["seed"] == 0]
    write(folder / "comparison.json", {**about, "seeds": [0], "cells": cells})
    text = " ".join(Page(write_comparison(folder).read_text("utf-8")).words)
    assert text.count("With one seed no difference to PRG can be told from chance") == 1
    assert "cannot be told from PRG" not in text


def test_machines__are_all_named(folder: Path) -> None:
    path, content = facts_of(folder, "prg-seed1")
    content["result"] |= {"machine": "aarch64", "cpu_count": 7, "python": "3.12.1", "versions": {"torch": "2.15.0"}}
    write(path, content)
    text = write_comparison(folder).read_text("utf-8")
    assert "cpu · aarch64 · 7 CPU cores · Python 3.12.1" in text
    assert "torch 2.14.0; torch 2.15.0" in text


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        assert self._open == []  # every element is closed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "source", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "title"):
            self.words += data.split()


def test_page__is_well_formed_and_self_contained(folder: Path) -> None:
    source = write_comparison(folder).read_text(encoding="utf-8")
    page = Page(source)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "i")]
    addresses = [
        value for _, attributes in page.tags for key in ("src", "href", "srcset") if (value := attributes.get(key))
    ]
    assert len(addresses) == 11  # five figures, light and dark, and the icon
    assert all(address.startswith("data:") for address in addresses)
    assert "url(" not in source
    text = " ".join(page.words)
    assert NASTY in text
    assert "93.5 ± 0.7" in text
    assert f"{NASTY} is above PRG in linear" in text
    assert "cannot be told from PRG in k-NN (k = 20) (+2.5 ± 6.4)" in text
    assert "+2.5 ± 6.4" in text
    assert "block middle at τ = 0.2, pooling mean" in text
    assert "20 CPU seconds" in text


def test_tables__agree_and_escape(folder: Path) -> None:
    write_comparison(folder)
    markdown = (folder / "table.md").read_text(encoding="utf-8")
    rows = [line for line in markdown.splitlines() if line.startswith("| _A\\|b")]
    assert len(rows) == 4  # accuracies, differences, two seeds
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines()[2:6]]
    assert len(set(bars)) == 1
    assert "**93.5 ± 0.7**" in rows[0]
    assert "+2.5 ± 6.4 |" in rows[1]
    assert "+1.0 ± 0.7 ▲ |" in rows[1]

    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text(encoding="utf-8"))))
    assert [line["method"] for line in lines] == ["PRG", NASTY]
    assert float(lines[1]["knn"]) == 93.5
    assert float(lines[1]["knn_difference"]) == 2.5
    assert float(lines[1]["knn_difference_se"]) == 0.5
    assert (lines[1]["knn_seed0"], lines[1]["knn_seed1"]) == ("93", "94")
    assert lines[0]["knn_difference"] == ""
    assert float(lines[0]["cpu_seconds"]) == 20.5
    assert float(lines[0]["robustness"]) == 69.5

    content = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    assert content["methods"][1]["differences"]["linear"]["by_seed"] == {"0": 1.0, "1": 1.0}
    assert [column["key"] for column in content["columns"]] == [
        "knn", "linear", "robustness", "clean", "pca_knn", "pca_linear"
    ]  # fmt: skip

    latex = (folder / "table.tex").read_text(encoding="utf-8")
    assert r"\_A|b \& \textless{}i\textgreater{}50\_\%\textless{}/i\textgreater{} \$\textbackslash{}frac\$ &" in latex
    assert r"\textbf{93.5 $\pm$ 0.7}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    counts = {line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}
    assert len(counts) == 2  # one number of columns in each table


def test_formulas__are_harmless_in_csv(folder: Path) -> None:
    text = (folder / "comparison.json").read_text(encoding="utf-8").replace(json.dumps(NASTY), '"=1+1"')
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    write_comparison(folder)
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text(encoding="utf-8"))))
    assert lines[1]["method"] == "'=1+1"


def test_latex__escapes_every_special_character() -> None:
    assert latex_text(r"\{}~^") == r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}"


def test_missing_seeds__are_noted(folder: Path) -> None:
    about = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    about["cells"] = about["cells"][:3]
    write(folder / "comparison.json", about)
    comparison = read_comparison(folder)
    assert comparison.notes == (f"{NASTY}: 1 of 2 seeds so far.",)
    other = table_rows(comparison)[1]
    assert other.differences["knn"].standard_error is None
    assert other.scores["knn"].deviation is None


def test_unequal_test_sets__are_refused(folder: Path) -> None:
    write(folder / "results" / "nasty-seed1" / "knn.json", {"result": {"top1": 9.0, "k": 20, "num_test": 49}})
    with pytest.raises(UserError, match="knn was measured on 500 images for PRG, 49 for"):
        read_comparison(folder)


def test_robustness__is_the_mean_over_seeds() -> None:
    mean = mean_robustness([robust(30.0), robust(31.0)])
    assert mean["error"]["fog"] == {"1": 30.5, "5": 30.5}
    assert mean["clean_top1"] == 90.0


def test_cost_plot__has_a_dot_for_who_paid_and_a_line_for_who_did_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("nasty-seed0", "nasty-seed1"):
        path, content = facts_of(folder, key)
        content["result"]["training"]["cpu_seconds"] = 0.0
        write(path, content)
    comparison, figures = read_comparison(folder), []
    monkeypatch.setattr("lightly_prg.eval.comparison.plot.write_figure", lambda path, draw: figures.append(draw(LIGHT)))
    for kind in ("training", "embedding"):
        plot_accuracy_against_cost(comparison, table_rows(comparison), kind, folder / "cost.png")
    training, embedding = (figure.axes for figure in figures)
    assert [axes.get_ylabel() for axes in training] == ["k-NN\nk\xa0=\xa020, %", "linear, %"]
    drawn = [[[float(value[0]) for value in line.get_data()] for line in axes.lines if line.get_marker() == "o"]
             for axes in (training[0], embedding[0])]  # fmt: skip
    assert drawn == [[[20.5, 91.0]], [[1e9, 91.0], [1e9, 93.5]]]
    flat = [line.get_ydata() for line in training[0].lines if line.get_linestyle() == ":"]
    assert [list(values) for values in flat] == [[93.5, 93.5]]
