"""The paper's headline, measured: what pretraining is worth when a classifier is trained through the reverse ODE.

Cells: pretrained or from scratch, trained whole; of the pretrained one also the head alone ("frozen"), the later half
of the blocks, or low-rank updates; the state at the noise end or the middle block; and for the pretrained network,
trained whole, with some of the flow-matching loss kept. Every cell has the same grid of learning rates, chosen on
validation images, and the same labels.

Give one run for each seed. A cell whose JSON is there is skipped, so that the script can be stopped and started again;
one that was made of another run or with other options is refused. Cells are ordered by what they tell, all seeds of one
before the next. Each fine-tuning also leaves its result in the
``eval`` folder of the run.

    python eval/experiments/finetune_through_ode.py runs/cifar10-seed0 runs/cifar10-seed1 runs/cifar10-seed2 \
        --out results/finetune --labels 500 --epochs 10 --budget-minutes 120
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightly_prg.claims.finetuning import ENCODER_OF, through_ode
from lightly_prg.classifier import finetune_run
from lightly_prg.console import Console
from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.evaluation.kept_results import KeptResult, identity_of, missing_results, told
from lightly_prg.files import read_json, replacing, write_text
from lightly_prg.models.lora import LoRA
from lightly_prg.recipe import FinetuneRecipe, finetune_settings
from lightly_prg.run import Run

MODES = ("full", "lora", "partial", "head")
FEATURES = ("state", "block")
BETAS = (0.1, 1.0)
_KEPT = (
    "top1", "validation_top1", "learning_rate", "per_learning_rate", "trainable_parameters", "nfe", "embedding_dim",
    "num_train", "num_validation", "num_test", "epochs", "steps", "blocks", "feature", "ode", "seconds", "cpu_seconds",
    "round_trip_before", "round_trip_after", "curve", "options", "recipe_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One kind of fine-tuning, for all seeds.

    Attributes:
        start: ``pretrained`` or ``scratch``.
        mode: ``head``, ``partial``, ``lora`` or ``full``.
        feature: ``state`` at the noise end, or ``block``.
        beta: Weight of the flow-matching loss.
    """

    start: str
    mode: str
    feature: str
    beta: float = 0.0

    def name(self, data: str, seed: int) -> str:
        """Of its file, without ending."""
        return f"{data}-{self.start}-{self.mode}-{self.feature}-beta{self.beta:g}-seed{seed}"


def cells(modes: Sequence[str], features: Sequence[str], betas: Sequence[float]) -> Iterator[Cell]:
    """All cells, those that tell most first."""
    for mode in modes:
        for feature in features:
            yield Cell("pretrained", mode, feature)
            if mode == "full":
                yield Cell("scratch", mode, feature)
            if mode == "full":
                for beta in betas:
                    yield Cell("pretrained", mode, feature, beta)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is not there yet; returns 1 if a cell could not be measured."""
    options = parser().parse_args(arguments)
    console = Console()
    evaluations = [
        Evaluation(Run.open(folder), root=options.root, device=options.device, console=console)
        for folder in options.runs
    ]
    begin, failed = time.monotonic(), 0
    asked = {
        (cell, evaluation.run): result_of(cell, evaluation.run, options)
        for cell in cells(options.modes, options.features, options.betas)
        for evaluation in evaluations
    }
    by_run = {evaluation.run: evaluation for evaluation in evaluations}
    for cell, run in missing_results(asked):
        kept = asked[cell, run]
        name = kept.path.stem
        if options.budget_minutes is not None and time.monotonic() - begin >= 60 * options.budget_minutes:
            console.say(f"The budget of {options.budget_minutes:g} minutes is spent; {name} is the next.")
            break
        try:
            measure(cell, kept, by_run[run], options)
        except UserError as error:
            console.say(f"{name}: {error}")
            failed += 1
    summarise(options.out, console)
    return int(failed > 0)


def result_of(cell: Cell, run: Run, options: argparse.Namespace) -> KeptResult:
    """Where the result of a cell lies, and what decides over it beside what its name says."""
    recipe, made_with = run.recipe, identity_of(run)
    if cell.start == "scratch":
        del made_with["weights_crc32"]  # which it does not use
    older: dict[str, Any] = {"recipe_sha256": made_with["recipe_sha256"]}
    chosen = {
        "split": ("split", options.split),
        "labels": ("options.labels", options.labels),
        "epochs": ("epochs", options.epochs),
        "batch_size": ("options.batch_size", options.batch_size),
        "rates": ("options.learning_rates", options.rates),
    }
    if cell.feature == "state":
        chosen["steps"] = ("ode.steps", options.steps)
    else:
        chosen["block"] = ("feature.block", options.block)
        chosen["block_tau"] = ("feature.tau", options.block_tau)
        chosen["block_pool"] = ("feature.pool", options.block_pool)
    if cell.mode == "lora":
        made_with["rank"] = options.rank
        lora = finetune_settings(recipe, [f"lora.rank={options.rank}"], mode="lora").lora
        older["options.adapter"] = repr(LoRA(**lora.model_dump(), seed=recipe.seed))
    for name, (key, value) in chosen.items():
        made_with[name] = older[key] = value
    return KeptResult(options.out / f"{cell.name(recipe.data.title, recipe.seed)}.json", made_with, older)


def measure(cell: Cell, kept: KeptResult, evaluation: Evaluation, options: argparse.Namespace) -> None:
    """Fine-tunes one cell and writes its JSON, and the samples before and after where there are any."""
    name = kept.path.stem
    evaluation.console.say(name)
    settings = settings_of(cell, evaluation, options)
    folder = options.out / "runs" / name
    run, result = finetune_run(
        evaluation, settings, encoder=ENCODER_OF[cell.start], split=options.split, out=folder, overwrite=True
    )
    for picture in run.figures.glob("samples_before_after*.png"):
        with replacing(
            options.out / "figures" / f"{name}{picture.stem.removeprefix('samples_before_after')}.png"
        ) as to:
            shutil.copyfile(picture, to)
    if not options.keep_runs:
        shutil.rmtree(folder)
    recipe = evaluation.run.recipe
    content = {key: result[key] for key in _KEPT if key in result}
    which = {**asdict(cell), "data": recipe.data.title, "seed": recipe.seed}
    kept.write({"cell": which, "split": options.split, **content})


def settings_of(cell: Cell, evaluation: Evaluation, options: argparse.Namespace) -> FinetuneRecipe:
    """The same for every cell but for what the cell is about."""
    block = [
        "feature.source=block",
        f"feature.block={options.block}",
        f"feature.tau={options.block_tau}",
        f"feature.pool={options.block_pool}",
        "ode.steps=1",
        "ode.solver=euler",
    ]
    return finetune_settings(
        evaluation.run.recipe,
        [
            *(through_ode(options.steps) if cell.feature == "state" else block),
            "ode.gradient=full",  # the memory is there, and what `checkpoint` gives is the same to the last bit
            *([f"lora.rank={options.rank}"] if cell.mode == "lora" else []),
        ],
        mode=cell.mode,
        blocks=later_half(evaluation, cell, options.block) if cell.mode == "partial" else (),
        preset="shared",
        labels=options.labels,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rates=tuple(options.rates),
        beta=cell.beta,
    )


def later_half(evaluation: Evaluation, cell: Cell, block: str) -> tuple[str, ...]:
    """Of the blocks that lie before the feature, the later half: those that ``partial`` trains."""
    blocks = evaluation.prg.blocks
    if cell.feature == "block":
        if f"velocity.{block}" not in blocks:
            raise UserError(f"There is no block {block!r} in {', '.join(blocks)}.")
        blocks = blocks[: blocks.index(f"velocity.{block}") + 1]
    return blocks[len(blocks) // 2 :]


def summarise(out: Path, console: Console) -> None:
    """Prints the table of all cells that are there, and writes summary.md."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for file in sorted(out.glob("*.json")):
        result = read_json(file)
        which = (result["cell"][name] for name in ("data", "feature", "mode", "start", "beta"))
        key = (*which, result["num_train"], result["epochs"])
        groups.setdefault(key, []).append(result)
    titles = (
        "data", "feature", "mode", "start", "beta", "labels", "epochs", "top-1 %", "seeds", "NFE", "trained",
        "round trip", "afterwards", "minutes",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"{'|---' * len(titles)}|"]
    for key, results in groups.items():
        texts = [part if isinstance(part, str) else f"{part:g}" for part in key]
        top1 = [result["top1"] for result in results]
        spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        before, after = (_mean([r.get(f"round_trip_{when}") for r in results], ".2e") for when in ("before", "after"))
        lines.append(
            f"| {' | '.join(texts)} | {statistics.mean(top1):.2f}{spread} | {len(results)} | {results[0]['nfe']} | "
            f"{results[0]['trainable_parameters']:,} | {before} | {after} | "
            f"{_mean([result['seconds'] / 60 for result in results], '.1f')} |"
        )
    write_text(out / "summary.md", "\n".join(lines) + "\n")
    for line in lines:
        console.say(line)


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.mean(known), form) if known else ""


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("runs", nargs="+", type=Path, help="PRG run folders, one for each seed and data set")
    found.add_argument("--out", type=Path, required=True, help="folder of the results")
    found.add_argument("--labels", type=float, default=500, help="labels of each class, or a share of them")
    found.add_argument("--epochs", type=int, default=10, help="passes over these labels, at each learning rate")
    found.add_argument("--batch-size", type=int, default=64, help="images of a step")
    found.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3], help="the grid of learning rates")
    found.add_argument("--steps", type=int, default=4, help="Euler steps K to the noise end, for the state")
    found.add_argument("--block", default="middle", help="the block that is read")
    found.add_argument("--block-tau", type=float, default=0.1, help="where it is read")
    found.add_argument("--block-pool", default="mean", help="how it is pooled")
    found.add_argument("--rank", type=int, default=8, help="of the low-rank updates")
    found.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="only these")
    found.add_argument("--features", nargs="+", choices=FEATURES, default=FEATURES, help="only these")
    found.add_argument("--betas", type=float, nargs="*", default=BETAS, help="beside 0")
    found.add_argument("--split", default="test", choices=("validation", "test"), help="what is reported")
    found.add_argument("--budget-minutes", type=float, default=None, help="start no cell after so many minutes")
    found.add_argument("--keep-runs", action="store_true", help="keep the fine-tuned runs")
    found.add_argument("--root", default=None, help="where the data lie, if not where the recipes say")
    found.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    return found


if __name__ == "__main__":
    raise SystemExit(told(main))
