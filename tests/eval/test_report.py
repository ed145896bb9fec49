from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from lightly_prg.errors import UserError
from lightly_prg.eval.report import ResultRow, format_table, result_rows, verdict, write_report
from lightly_prg.eval.result_files import Score

RECIPE = """
name: quick
seed: 7
data: {name: digits}
method: {name: prg, path: linear, coupling: independent, backbone: {name: unet}}
eval: {split: test}
"""
ENCODER = {
    "format_version": 1,
    "method": "prg",
    "name": "quick",
    "feature": {"source": "block", "block": "middle", "tau": 0.3, "pool": "grid:2"},
    "path": "linear",
    "ode": {"solver": "euler", "steps": 4},
    "input_shape": [1, 8, 8],
    "parameters": 612345,
    "embedding_dim": 256,
    "nfe": 5,
    "recipe_sha256": "c0ffee",
    "training": {
        "epochs": 100,
        "steps": 1300,
        "images": 129300,
        "wall_seconds": 92.4,
        "cpu_seconds": 5400.0,
        "images_per_second": 1399.1,
        "device": "cpu",
        "precision": "32",
        "final_train_loss": 0.28123,
        "final_validation_loss": 0.29456,
    },
    "versions": {"torch": "2.14.0", "lightly": "1.6.0"},
    "of the future": {"unknown": [1, 2]},
}


class Page(HTMLParser):
    """What the tests ask of a page: its addresses, its texts, its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
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

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def result(evaluator: str, encoder: str, top1: float, **more: Any) -> dict[str, Any]:
    return {
        "evaluator": evaluator,
        "encoder": encoder,
        "top1": top1,
        "top1_std": None,
        "labels": None,
        "draws": 1,
        "split": "test",
        "nfe": 5,
        "seconds": 1.25,
        "images_per_second": 5123.0,
        "embedding_dim": 256,
        "num_train": 1437,
        "num_test": 360,
        "seed": 7,
        "recipe_sha256": "c0ffee",
        "options": {"k": 20, "temperature": 0.07} if evaluator == "knn" else {},
        **more,
    }


def write_result(run: Path, name: str, content: Any) -> None:
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "quick"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "encoder.json").write_text(json.dumps(ENCODER))
    (folder / "metrics.csv").write_text(
        "step,epoch,train_loss,validation_loss,lr,images_per_second,seconds\n1,0,1.5,,0.1,,\n2,0,1.2,1.4,0.1,100,0.5\n"
    )
    few = {"labels": 10, "draws": 5}
    write_result(folder, "knn", result("knn", "run", 98.61, top5=99.91, by_k={"10": 98.72, "200": 94.33}))
    write_result(folder, "linear", result("linear", "run", 97.22))
    write_result(folder, "linear-1", result("linear", "run", 93.4, top1_std=0.83, **few))
    pixels: dict[str, Any] = {"embedding_dim": 64, "nfe": 0, "images_per_second": 210000.0}
    write_result(folder, "knn-2", result("knn", "raw_pixels", 97.11, **pixels))
    write_result(folder, "linear-2", result("linear", "raw_pixels", 95.61, **pixels))
    draws = result("linear", "raw_pixels", 87.2, top1_std=1.13, **few, **pixels)
    write_result(folder, "linear-3", draws)
    write_result(folder, "knn-4", result("knn", "random_network", 85.11))
    return folder


def picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 20)).save(file, format="PNG")
    return file.getvalue()


# The page


def test_page__needs_nothing_from_outside(run: Path) -> None:
    page = Page(write_report(run))
    for tag, attributes in page.tags:
        assert tag != "script"
        for key in ("src", "srcset", "href", "data", "poster", "action"):
            assert (attributes.get(key) or "data:").startswith("data:")
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_page__shows_every_number_of_the_results(run: Path) -> None:
    text = Page(write_report(run)).text
    table = text[: text.index("Beside the controls")]
    for shown in ("98.6", "97.2", "93.4 ± 0.8", "97.1", "95.6", "87.2 ± 1.1", "85.1"):
        assert shown in table
    for shown in ("k = 20", "mean ± std of 5 draws", "256", "64", "5,123", "210,000", "test"):
        assert shown in table
    details = text[text.index("All evaluations (7)") :]
    for shown in ("98.61", "k = 10: 98.72 %", "k = 200: 94.33 %", "num_train 1,437", "num_test 360"):
        assert shown in details
    assert "temperature 0.07" in details
    assert "seconds 1.25" in details
    assert "top-5: 99.91 %" in details


def test_page__tells_how_the_run_was_made(run: Path) -> None:
    text = Page(write_report(run)).text
    for shown in (
        "digits · 1 × 8 × 8",  # noqa: RUF001
        "unet · 612,345 parameters",
        "block middle at τ = 0.3, pooling grid:2 · 256 dimensions",
        "euler · 4 steps · 5 network evaluations",
        "100 epochs · 1,300 steps · 129,300 images",
        "92.4 s wall clock · 5,400.0 s (1 h 30 min) processor · 1,399 images/s",
        "cpu · 32 precision",
        "0.2812 training · 0.2946 validation",
        "Seed 7",
        "torch 2.14.0, lightly 1.6.0",
        "c0ffee",
        "lightly-prg train recipe.yaml",
        "method: {name: prg, path: linear,",
        "digits are easy",
    ):
        assert shown in text, shown


def test_page__has_the_best_of_each_column_in_bold(run: Path) -> None:
    write_result(run, "linear-2", result("linear", "raw_pixels", 99.01))
    source = write_report(run).read_text(encoding="utf-8")
    strong = [part.split("</strong>")[0] for part in source.split("<strong>")[1:]]
    assert strong == ["98.6", "93.4", "99.0"]


def test_page__explains_prg_for_prg_alone(run: Path) -> None:
    assert "flow matching" in Page(write_report(run)).text
    (run / "recipe.yaml").write_text(RECIPE.replace("prg", "simclr").replace("digits", "cifar10"))
    page = Page(write_report(run))
    assert "flow matching" not in page.text
    assert "A frozen generator" not in page.text
    assert "digits are easy" not in page.text
    assert "SimCLR" in page.text


def test_page__embeds_both_themes_of_every_figure(run: Path) -> None:
    names = ["samples", "trajectory", "round_trip", "embedding_map", "my own"]
    (run / "figures").mkdir()
    for name in names:
        (run / "figures" / f"{name}.png").write_bytes(picture())
        (run / "figures" / f"{name}-dark.png").write_bytes(picture())
    page = Page(write_report(run))
    assert {figure["id"] for figure in page.all("figure")} == {*names, "accuracy", "curves"}
    images, sources = page.all("img"), page.all("source")
    assert len(images) == len(sources) == 7
    for address in [image["src"] for image in images] + [source["srcset"] for source in sources]:
        kind, _, content = (address or "").partition(",")
        assert kind == "data:image/png;base64"
        Image.open(BytesIO(base64.b64decode(content))).load()
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in sources)
    sizes = [(image["width"], image["height"]) for image in images]
    assert sizes.count(("20", "10")) == 5  # two pixels of a file for one of the page


def test_page__shows_the_measurements_with_their_figures(run: Path) -> None:
    write_result(run, "likelihood", {"bits_per_dim": 2.0412, "standard_error": 0.0223, "split": "test"})
    (run / "figures").mkdir()
    for name in ("likelihood", "gaussianity", "scan"):
        (run / "figures" / f"{name}.png").write_bytes(picture())
    page = Page(write_report(run))
    measured = page.text[page.text.index("Measurements of the flow") :]
    assert "Bits per dimension 2.041 ± 0.022" in measured
    assert "Is the noise end noise?" in measured
    assert "Where to read the embedding" in page.text[: page.text.index("Measurements of the flow")]
    assert "More figures" not in page.text
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))


def test_page__without_measurements_has_no_section_for_them(run: Path) -> None:
    (run / "figures").mkdir()
    (run / "figures" / "scan.png").write_bytes(picture())
    assert "Measurements of the flow" not in Page(write_report(run)).text


def test_page__is_accessible(run: Path) -> None:
    (run / "figures").mkdir()
    (run / "figures" / "samples.png").write_bytes(picture())
    page = Page(write_report(run))
    assert all(image["alt"] for image in page.all("img"))
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page__escapes_names(run: Path) -> None:
    evil = "<script>alert('x')</script>"
    (run / "recipe.yaml").write_text(
        json.dumps({"name": evil, "description": evil, "data": {"name": evil}, "method": {"name": evil}})
    )
    (run / "encoder.json").write_text(json.dumps({"versions": {evil: evil}, "feature": {"source": evil}, "path": evil}))
    write_result(run, "knn-9", result(evil, "run", 50, options={evil: evil}))
    write_result(run, "knn-8", result("knn", evil, 50))
    (run / "figures").mkdir()
    (run / "figures" / "<i>&.png").write_bytes(picture())
    page = Page(write_report(run))
    assert not page.all("script")
    assert not page.all("i")
    assert page.text.count("alert('x')") >= 8


# What is missing or broken


def test_empty_folder__gives_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert tmp_path.name in page.text
    assert "has not been evaluated yet" in page.text
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert result_rows(tmp_path) == []


def test_no_folder__is_a_sentence(tmp_path: Path) -> None:
    for function in (write_report, result_rows):
        with pytest.raises(UserError, match=r"no run folder .*missing"):
            function(tmp_path / "missing")


@pytest.mark.parametrize("name", ["recipe.yaml", "encoder.json", "metrics.csv", "eval", "figures"])
def test_any_part__may_be_missing(name: str, run: Path) -> None:
    (run / name).rename(run.parent / "elsewhere") if name != "figures" else None
    page = Page(write_report(run))
    assert "quick" in page.text
    assert not page.all("aside")  # nothing to complain about


def test_unreadable_files__are_named_and_left_out(run: Path) -> None:
    (run / "eval" / "broken.json").write_text('{"evaluator": "knn", ')
    (run / "eval" / "list.json").write_text("[1, 2]")
    write_result(run, "too large", result("knn", "run", 983))
    write_result(run, "nan", result("knn", "run", float("nan")))
    write_result(run, "round_trip", {"evaluator": "round_trip", "rmse_by_steps": {"4": 0.1}})
    (run / "eval" / ".half.json").write_text("{")
    (run / "recipe.yaml").write_text("name: [")
    (run / "encoder.json").write_bytes(b"\xff\xfe{")
    (run / "figures").mkdir()
    (run / "figures" / "samples.png").write_text("no picture")
    page = Page(write_report(run))
    notes = page.source.split("<aside")[1].split("</aside>")[0]
    for name in ("broken.json", "list.json", "too large.json", "nan.json", "recipe.yaml", "encoder.json"):
        assert name in notes
    assert "samples.png" in notes
    assert "round_trip" not in notes
    assert ".half" not in notes
    assert "98.6" in page.text


@pytest.mark.parametrize("value", [None, "text", [1], {"a": 1}, True, -1, 1e400])
@pytest.mark.parametrize("key", sorted(ENCODER))
def test_encoder_json__may_hold_anything(key: str, value: Any, run: Path) -> None:
    (run / "encoder.json").write_text(json.dumps({**ENCODER, key: value}))
    for file in (*run.glob("eval/*.json"), run / "metrics.csv"):
        file.unlink()  # no figures to draw: the test is about the words
    Page(write_report(run))


def test_curves__are_drawn_when_they_are_missing_or_old(run: Path) -> None:
    write_report(run)
    curves = run / "figures" / "curves.png"
    curves.write_bytes(picture())
    write_report(run)
    assert curves.read_bytes() == picture()  # newer than metrics.csv: left alone
    os.utime(curves, (0, 0))
    write_report(run)
    assert curves.read_bytes() != picture()


# Rows


def scores(run: Path) -> dict[tuple[str, str], dict[str, str]]:
    return {
        (row.split, row.encoder): {
            column: f"{score.percent} {score.spread}".strip() for column, score in row.scores.items()
        }
        for row in result_rows(run)
    }


def test_rows__are_the_run_and_its_controls(run: Path) -> None:
    few = "linear with 10 labels per class"
    assert scores(run) == {
        ("test", "run"): {"k-NN": "98.6", "linear": "97.2", few: "93.4 ± 0.8"},
        ("test", "raw_pixels"): {"k-NN": "97.1", "linear": "95.6", few: "87.2 ± 1.1"},
        ("test", "random_network"): {"k-NN": "85.1"},
    }
    first, second, third = result_rows(run)
    assert [row.name for row in (first, second, third)] == ["PRG", "raw pixels", "random network"]
    assert list(first.scores) == ["k-NN", "linear", few]
    assert (first.embedding_dim, first.nfe, first.images_per_second) == (256, 5, 5123)
    assert (second.embedding_dim, second.nfe, second.images_per_second) == (64, 0, 210000)


def test_rows__prefer_the_recipes_options_then_the_newest(run: Path) -> None:
    write_result(run, "knn-5", result("knn", "run", 50, options={"k": 200}))
    write_result(run, "knn-6", result("knn", "raw_pixels", 60, options={"k": 200}))
    os.utime(run / "eval" / "knn.json", (0, 0))
    assert scores(run)["test", "run"]["k-NN"] == "98.6"
    (run / "eval" / "knn.json").rename(run / "eval" / "knn-0.json")
    assert scores(run)["test", "run"]["k-NN"] == "50.0"  # the newest, where none is the recipe's
    (run / "eval" / "knn-0.json").rename(run / "eval" / "knn.json")
    assert scores(run)["test", "raw_pixels"]["k-NN"] == "97.1"  # k as in the run's
    write_result(run, "knn-7", result("knn", "raw_pixels", 70))
    for name, age in (("knn-2", 100), ("knn-7", 200)):
        os.utime(run / "eval" / f"{name}.json", (age, age))
    assert scores(run)["test", "raw_pixels"]["k-NN"] == "70.0"
    os.utime(run / "eval" / "knn-2.json", (300, 300))
    assert scores(run)["test", "raw_pixels"]["k-NN"] == "97.1"


def test_rows__that_cannot_be_compared_are_named(run: Path) -> None:
    assert "measured differently" not in write_report(run).read_text()
    write_result(run, "knn-4", result("knn", "random_network", 80, num_test=100))
    assert "knn-4.json is compared with a run measured differently" in write_report(run).read_text()


def test_fits__that_did_not_converge_are_named(run: Path) -> None:
    write_result(run, "linear", result("linear", "run", 97.22, converged=True))
    assert "converge" not in write_report(run).read_text()
    write_result(run, "linear", result("linear", "run", 97.22, converged=False))
    assert "linear.json: the fit was stopped before it converged." in write_report(run).read_text()


def test_rows__have_the_recipes_split_first_and_splits_of_the_run_alone(run: Path) -> None:
    write_result(run, "knn-a", result("knn", "run", 91, split="validation"))
    write_result(run, "knn-b", result("knn", "raw_pixels", 92, split="validation"))
    write_result(run, "knn-c", result("knn", "raw_pixels", 93, split="train"))
    write_result(run, "fine", result("finetune", "raw_pixels", 94))
    assert [(row.split, row.encoder) for row in result_rows(run)] == [
        ("test", "run"),
        ("test", "raw_pixels"),
        ("test", "random_network"),
        ("validation", "run"),
        ("validation", "raw_pixels"),
    ]
    assert "finetune" not in result_rows(run)[1].scores
    (run / "recipe.yaml").write_text(RECIPE.replace("split: test", "split: validation"))
    assert result_rows(run)[0].split == "validation"
    page = Page(write_report(run))
    assert len(page.all("table")) == 3
    assert "On the validation split PRG" in page.text


def test_rows__tell_one_label_from_all_labels(run: Path) -> None:
    for index, labels in enumerate((1, 1.0, 0.01)):
        write_result(run, f"linear-x{index}", result("linear", "run", 50, labels=labels))
    assert list(result_rows(run)[0].scores) == [
        "k-NN",
        "linear",
        "linear with 1 label per class",
        "linear with 10 labels per class",
        "linear with 1 % of the labels",
        "linear with 100 % of the labels",
    ]


def test_rows__have_no_deviation_of_a_single_draw(run: Path) -> None:
    write_result(run, "linear", result("linear", "run", 97.22, top1_std=0, draws=1))
    assert scores(run)["test", "run"]["linear"] == "97.2"


def test_rows__of_controls_alone_are_shown(run: Path) -> None:
    for name in ("knn", "linear", "linear-1"):
        (run / "eval" / f"{name}.json").unlink()
    rows = result_rows(run)
    assert [row.encoder for row in rows] == ["raw_pixels", "random_network"]
    assert verdict(rows) == ""
    Page(write_report(run))


# The verdict


def said(run: Path, /, **accuracies: float) -> str:
    """The verdict after the k-NN accuracies of the encoders became these."""
    for file in run.glob("eval/*.json"):
        file.unlink()
    for encoder, top1 in accuracies.items():
        name = "knn" if encoder == "run" else f"knn-{encoder}"
        write_result(run, name, result("knn", encoder, top1))
    return verdict(result_rows(run)).replace("\N{NO-BREAK SPACE}", " ")


def test_verdict__turns_with_the_numbers(run: Path) -> None:
    assert said(run, run=95, raw_pixels=85) == (
        "On the test split PRG beats raw pixels in k-NN (95.0 % against 85.0 %)."
    )
    assert said(run, run=85, raw_pixels=95) == (
        "On the test split PRG falls behind raw pixels in k-NN (85.0 % against 95.0 %)."
    )
    # Of 360 images 0.8 % are three.
    assert said(run, run=98.3, raw_pixels=97.5) == (
        "On the test split PRG is too close to raw pixels to call in k-NN (98.3 % against 97.5 %)."
    )
    assert said(run, run=95) == (
        "On the test split PRG reaches 95.0 % in k-NN; nothing to compare it with was evaluated."
    )


def test_verdict__speaks_of_the_random_network_too(run: Path) -> None:
    better = said(run, run=95, raw_pixels=85, random_network=80)
    assert better.endswith("(95.0 % against 85.0 %). It beats a random network.")
    worse = said(run, run=80, raw_pixels=85, random_network=95)
    assert worse.endswith("It falls behind a random network.")
    only = said(run, run=95, random_network=80)
    assert only == "On the test split PRG beats a random network in k-NN (95.0 % against 80.0 %)."


def test_verdict__sorts_the_columns(run: Path) -> None:
    text = verdict(result_rows(run)).replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        "On the test split PRG beats raw pixels in linear with 10 labels per class "
        "(93.4 % against 87.2 %) and is too close to raw pixels to call in k-NN (98.6 % against "
        "97.1 %) and linear (97.2 % against 95.6 %). It beats a random network in k-NN."
    )
    assert text in Page(write_report(run)).text


def test_verdict__needs_fewer_points_with_more_images(run: Path) -> None:
    for num_test, word in ((360, "too close"), (100_000, "beats")):
        for name, encoder, top1 in (("knn", "run", 98.3), ("knn-2", "raw_pixels", 97.5)):
            write_result(run, name, result("knn", encoder, top1, num_test=num_test))
        rows = [row for row in result_rows(run) if row.encoder != "random_network"]
        knn = verdict(rows).split("k-NN")[0]
        assert word in knn.split(" and ")[-1]


# The terminal


def test_table__shows_what_the_page_shows(run: Path) -> None:
    write_result(run, "knn-9", result("knn", "[bold]x[/bold]", 50, nfe=None))
    console = Console(width=200, record=True, file=StringIO())
    console.print(format_table(result_rows(run)))
    lines = console.export_text(styles=False).splitlines()
    assert "test split" in lines[0]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["PRG", "98.6", "97.2", "93.4 ± 0.8", "256", "5", "5,123"],
        ["raw pixels", "97.1", "95.6", "87.2 ± 1.1", "64", "0", "210,000"],
        ["random network", "85.1", "–", "–", "256", "5", "5,123"],  # noqa: RUF001
        ["[bold]x[/bold]", "50.0", "–", "–", "256", "–", "5,123"],  # noqa: RUF001
    ]


def test_table__has_a_column_for_several_splits(run: Path) -> None:
    assert len(format_table(result_rows(run)).columns) == 7
    write_result(run, "knn-a", result("knn", "run", 91, split="validation"))
    table = format_table(result_rows(run))
    assert len(table.columns) == 8
    assert list(map(str, table.columns[1].cells)) == ["test", "test", "test", "validation"]
    assert format_table([]).row_count == 0


def test_many_scores__stand_below_each_other_in_80_characters(run: Path) -> None:
    rows = [
        ResultRow(
            "run", "PRG", "test", {f"score {i}": Score(90.0 + i, detail="few labels") for i in range(6)}, 256, 5, 5123
        ),
        ResultRow("raw_pixels", "raw pixels", "test", {"score 0": Score(95.0, detail="few labels")}, 64, 0, 210000),
    ]
    console = Console(width=80, record=True, file=StringIO())
    table = format_table(rows)
    console.print(table)
    lines = console.export_text(styles=False).splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")[1:-1]] for line in lines]
    assert ["score 0, few labels", "90.0", "95.0"] in cells
    assert ["score 5, few labels", "95.0", "\N{EN DASH}"] in cells
    assert ["dim", "256", "64"] in cells
    assert ["bold" in str(cell.style) for cell in table.columns[2].cells][:2] == [True, False]


def test_table__has_the_best_in_bold(run: Path) -> None:
    column = format_table(result_rows(run)).columns[1]
    bold: Callable[[Any], bool] = lambda cell: "bold" in str(cell.style)  # noqa: E731
    assert [bold(cell) for cell in column.cells] == [True, False, False]
