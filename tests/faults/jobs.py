"""What is killed: each job works to the end, from wherever a former one was killed, as the command of its name does."""

from __future__ import annotations

from pathlib import Path

from lightly_prg.comparison import compare
from lightly_prg.evaluation import Evaluation
from lightly_prg.export import write_embeddings
from lightly_prg.recipe import parse_recipe
from lightly_prg.recipe.comparison import parse_comparison
from lightly_prg.run import Run
from lightly_prg.train import train


def train_job(recipe: str, folder: Path) -> None:
    train(parse_recipe(recipe), out=folder, resume=Run(folder).recipe_file.is_file())


def embed_job(folder: Path) -> None:
    evaluation = Evaluation(Run.open(folder), device="cpu")
    embeddings = evaluation.embeddings("run", "train")
    write_embeddings(folder / "embeddings-train.npz", embeddings, evaluation.images("train").class_names)


def compare_job(recipe: str, folder: Path) -> None:
    compare(parse_comparison(recipe), out=folder)
