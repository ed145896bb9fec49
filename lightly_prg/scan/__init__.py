"""Choosing the feature without guessing: every block at every tau, ranked on validation images."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import embed, result_to_dict
from lightly_prg.eval.linear import PENALTIES
from lightly_prg.evaluation import Evaluation
from lightly_prg.features.cells import Row
from lightly_prg.features.grid import GridEncoder
from lightly_prg.hardware import decoding_workers
from lightly_prg.plotting.scan import plot_scan
from lightly_prg.scan.features import (
    MEMORY_BUDGET,
    CellFeatures,
    ScanImages,
    copied,
    groups_of,
    images_of,
    part_of,
    read_group,
    rows_of,
    taus_of,
)
from lightly_prg.scan.scores import (
    ACCURACIES,
    CRITERIA,
    LABEL_FREE,
    SCAN_ITERATIONS,
    SCAN_K,
    Identity,
    ScannedCell,
    finalists_of,
    identity,
    judge,
    rank_correlations,
    ranking,
    verdict,
)
from lightly_prg.scan.write import check_writable, write_choice

MAX_IMAGES = 2000
FINAL_IMAGES = 10_000
_SAMPLES = 32  # images by whose features two cells are known to be the same


@dataclass(frozen=True)
class ScanResult:
    """Every feature that a trained network offers, and the one to take.

    Attributes:
        cells: Best first.
        finals: The first of them, judged again on more images, best first; empty where that was not asked for.
        chosen: The first of ``finals``, or else of ``cells``.
        criterion: What ranked them: ``linear``, ``knn``, ``both`` (their mean), ``rankme`` or ``alpha_req``.
        standard_error: Of the chosen cell's accuracy, in points, by the number of judged images; None without labels.
        rank_correlation: Spearman's over the cells, of each criterion without labels (and of the number of dimensions)
            with the accuracies; see ``rank_correlations``.
        label_free_choice: The cell that each criterion without labels puts first; empty where none was measured.
        verdict: Whether they predict the accuracy, in words; None without labels or with fewer than three features.
        judged_on: ``validation``, or ``train`` where a tenth of the training images had to serve; None without labels.
        num_train: Training images in the bank.
        num_judged: Images that were judged.
        num_final_train: Training images in the bank of ``finals``, which decided; 0 without.
        num_final_judged: Images that were judged then.
        num_classes: Classes; 0 without labels.
        nfe: Network evaluations for one image that the whole grid cost.
        passes: Times that every image was read, 1 unless memory was short.
        skipped: Rows that could not be pooled so, with the reason.
        seconds_reading: Duration of the passes.
        seconds_judging: Duration of all that followed.
        seed: Of the draws and of the noise.
        options: What was asked for.
        written: With ``write``, what was stored and what the stored encoder gives when measured anew; else None.
    """

    cells: tuple[ScannedCell, ...]
    finals: tuple[ScannedCell, ...]
    chosen: ScannedCell
    criterion: str
    standard_error: float | None
    rank_correlation: dict[str, dict[str, float | None]]
    label_free_choice: dict[str, ScannedCell]
    verdict: str | None
    judged_on: str | None
    num_train: int
    num_judged: int
    num_final_train: int
    num_final_judged: int
    num_classes: int
    nfe: float
    passes: int
    skipped: tuple[str, ...]
    seconds_reading: float
    seconds_judging: float
    seed: int
    options: dict[str, Any]
    written: dict[str, Any] | None


def scan(
    evaluation: Evaluation,
    *,
    blocks: Sequence[str] = (),
    taus: Sequence[float] | None = None,
    sources: Sequence[str] = (),
    pools: Sequence[str] = (),
    criterion: str | None = None,
    max_images: int = MAX_IMAGES,
    steps: int | None = None,
    noised: bool = False,
    together: bool = True,
    write: bool = False,
    encoder: Literal["run", "random_network"] = "run",
    finalists: int = 0,
    final_images: int = FINAL_IMAGES,
    quick: bool = False,
    memory_budget: int = MEMORY_BUDGET,
) -> ScanResult:
    """Judges every block, state, velocity and denoised image at every tau; writes eval/scan.json and figures/scan.png.

    One solve of the ODE, and one network evaluation at the last tau, give all cells (``GridEncoder``); a network that
    is run once, such as SimCLR's or MAE's, is scanned over its stages. Features of training images are the bank of k-NN
    (k = 20) and fit the linear probe, whose penalty is chosen on a tenth of them; validation images are judged. Test
    images are never seen. RankMe and alpha-ReQ need no labels, and rank the cells where there are none.

    The steps of the solver lie on an even grid that contains every tau, so that a cell, stored with its number of
    steps, is read by the very same steps and equals what was scanned. Where there is no such grid (``reproducible``
    is false) the stored feature takes as many, even, steps, and differs a little. With ``write`` it is measured anew
    in any case.

    Args:
        evaluation: A trained run and its data.
        blocks: Names of blocks; default all.
        taus: Positions on the path; default ``SCANNED_TAUS``.
        sources: Some of ``state``, ``velocity``, ``denoised``, ``block``; for networks without a flow of ``block``,
            ``output``. Default: all, or ``block`` where blocks are named.
        pools: ``mean``, ``flatten``, ``grid:N``; default the recipe's.
        criterion: What ranks the cells; default ``linear``, or ``rankme`` without labels. ``both`` is the mean of k-NN
            and linear probe.
        max_images: At most so many training, and so many judged images, drawn by class.
        steps: Solver steps to the last tau; default the fewest that put every tau on an even grid and are at least the
            recipe's.
        noised: Read the network at randomly noised images in place of the states of the ODE (DDAE, arXiv 2303.09769).
            Such a feature is random and cannot be stored.
        together: Whether all taus behind each other are a feature as well, which is as many times as long.
        write: Store the choice in recipe.yaml and encoder.json. Results with the former feature are moved aside.
        encoder: ``random_network`` scans the run's network with fresh weights; it can not be stored and is not drawn.
        finalists: So many of the best cells are judged again on more images, and the best of them is chosen: what leads
            with few training images, short features for example, need not lead with many. 0 for none.
        final_images: At most so many training, and so many judged images, for the finalists.
        quick: Do what the choice needs alone: criteria without labels are not measured where another one ranks (they
            take half of the time of long features), and what is stored is not measured anew.
        memory_budget: Bytes of features to hold; where they would take more, the images are read several times.

    Raises:
        UserError: If an option does not fit the run, or the images have no labels and the criterion needs them.
    """
    grid = _grid(evaluation, evaluation.encoder(encoder), blocks, taus, sources, pools, steps, noised, together)
    for option, value, least in (
        ("max_images", max_images, 1),
        ("finalists", finalists, 0),
        ("final_images", final_images, 1),
    ):
        if value < least:
            raise UserError(f"{option} is {value}; at least {least} is needed.")
    if write and encoder != "run":
        raise UserError(f"A feature that was chosen for {encoder} is not stored for the run.")
    if write:
        check_writable(evaluation.run, noised=noised)
    images = images_of(evaluation.splits, max_images, seed=evaluation.run.recipe.seed)
    labelled = images.judged is not None
    criterion = _checked_criterion(criterion, labelled=labelled)
    label_free = not quick or criterion in LABEL_FREE
    groups = groups_of(grid, images.count, memory_budget)
    if len(groups) > 1:
        evaluation.console.say(
            f"All features together exceed {memory_budget / 2**30:.2g} GiB: the images are read {len(groups)} times."
        )
    start = time.perf_counter()
    key = ranking(criterion)
    samples: dict[Identity, np.ndarray[Any, Any]] = {}
    cells, best, judging = _judged(
        evaluation, grid, groups, images, key, label_free=label_free, keep_best=write, samples=samples
    )
    finals: list[ScannedCell] = []
    deciding = images
    if finalists:
        deciding = images_of(evaluation.splits, final_images, seed=evaluation.run.recipe.seed)
        wanted = finalists_of(cells, finalists, key, samples)
        rows_of_finals = {row for row, _ in wanted}
        rows = [row for row in grid.rows if row in rows_of_finals]
        grid_of_finals = part_of(grid, rows)
        finals, best, again = _judged(
            evaluation,
            grid_of_finals,
            groups_of(grid_of_finals, deciding.count, memory_budget),
            deciding,
            key,
            only=wanted,
            label_free=label_free,
            keep_best=write,
        )
        judging += again
    chosen = min(finals or cells, key=key)
    by = criterion if criterion in ACCURACIES else "linear"
    choices: dict[str, ScannedCell] = {name: min(cells, key=ranking(name)) for name in LABEL_FREE if label_free}
    correlations = rank_correlations(cells) if labelled and label_free else {}
    result = ScanResult(
        cells=tuple(sorted(cells, key=key)),
        finals=tuple(sorted(finals, key=key)),
        chosen=chosen,
        criterion=criterion,
        standard_error=_standard_error(chosen.score(by), deciding),
        rank_correlation=correlations,
        label_free_choice=choices,
        # Two features are in the same order or in the other: that says nothing of a criterion.
        verdict=verdict(correlations, choices, min(cells, key=ranking(by)), by, len(cells))
        if correlations and len(cells) > 2
        else None,
        judged_on=images.judged_on,
        num_train=len(images.bank),
        num_judged=_count(images.judged),
        num_final_train=len(deciding.bank) if finals else 0,
        num_final_judged=_count(deciding.judged) if finals else 0,
        num_classes=images.bank.num_classes if labelled else 0,
        nfe=grid.nfe,
        passes=len(groups),
        skipped=tuple(f"{row.name}: {reason}" for row, reason in grid.skipped.items()),
        seconds_reading=time.perf_counter() - start - judging,
        seconds_judging=judging,
        seed=evaluation.run.recipe.seed,
        options={
            "taus": list(grid.taus),
            "steps": grid.steps,
            "noised": noised,
            "together": together,
            "blocks": list(blocks),
            "sources": list(sources),
            "pools": list(pools),
            "criterion": criterion,
            "max_images": max_images,
            **({"finalists": finalists, "final_images": final_images} if finalists else {}),
            "k": SCAN_K,
            "penalties": list(PENALTIES),
            "max_iterations": SCAN_ITERATIONS,
        },
        written=None,
    )
    if best is not None:
        evaluation, written = write_choice(evaluation, best.cell, judged_on=images.judged_on)
        if not quick:
            written |= _judge_again(evaluation, best, deciding, label_free=label_free)
        result = replace(result, written=written)
    content = {
        "encoder": encoder,
        "split": images.judged_on if images.judged_on is not None else "train",
        **result_to_dict(result),
        "rows": [{"name": row.name, "source": row.source, "pool": row.pool} for row in grid.rows],
        "recipe_sha256": evaluation.description["recipe_sha256"],
    }
    evaluation.run.write_result("scan", content, own_options=encoder == "run")
    if encoder == "run":
        plot_scan(content, evaluation.run.figures / "scan.png")
    return result


def _grid(
    evaluation: Evaluation,
    encoder: Any,
    blocks: Sequence[str],
    taus: Sequence[float] | None,
    sources: Sequence[str],
    pools: Sequence[str],
    steps: int | None,
    noised: bool,
    together: bool,
) -> GridEncoder:
    positions = taus_of(encoder, taus)
    if noised and not positions:
        raise UserError("The encoder is a network that is run once: there is no path to noise its images on.")
    rows = rows_of(encoder, blocks=blocks, sources=sources, pools=pools)
    try:
        return GridEncoder(
            encoder,
            rows,
            taus=positions,
            steps=steps,
            noised=noised,
            seed=evaluation.run.recipe.seed,
            together=together,
        )
    except ValueError as error:  # a block that is not there, or nothing that could be pooled so
        raise UserError(str(error)) from None


def _checked_criterion(criterion: str | None, *, labelled: bool) -> str:
    if criterion is None:
        return "linear" if labelled else "rankme"
    if criterion not in CRITERIA:
        raise UserError(f"The criterion is {criterion!r}; allowed are {', '.join(CRITERIA)}.")
    if criterion not in LABEL_FREE and not labelled:
        raise UserError(f"The images have no labels, which {criterion!r} needs: take {' or '.join(LABEL_FREE)}.")
    return criterion


def _judged(
    evaluation: Evaluation,
    grid: GridEncoder,
    groups: Sequence[tuple[Row, ...]],
    images: ScanImages,
    key: Callable[[ScannedCell], tuple[float, ...]],
    *,
    only: Collection[Identity] = (),
    label_free: bool,
    keep_best: bool,
    samples: dict[Identity, np.ndarray[Any, Any]] | None = None,
) -> tuple[list[ScannedCell], CellFeatures | None, float]:
    """Every cell, or some of them; the features of the best if they are wanted; the seconds that judging took.

    Those of a few images go into ``samples``.
    """
    cells: list[ScannedCell] = []
    best: CellFeatures | None = None
    seconds, count = 0.0, len(only or grid.cells)
    for number, rows in enumerate(groups):
        title = f"reading {count} features" + (f", part {number + 1} of {len(groups)}" if len(groups) > 1 else "")
        with evaluation.console.task(title, images.count) as update:
            features = read_group(grid, rows, images, progress=update, **_embedding(evaluation))
        start = time.perf_counter()
        with evaluation.console.task("judging features", count, done=len(cells)) as update:
            for each in features:
                if only and (each.cell.row, each.cell.taus) not in only:
                    continue
                cells.append(_judge(evaluation, each, images, label_free=label_free))
                if samples is not None:
                    samples[identity(cells[-1])] = each.bank.features[:_SAMPLES].copy()
                if keep_best and min(cells, key=key) is cells[-1]:
                    best = copied(each)
                update(len(cells), note=f"{cells[-1].name} {cells[-1].position}")
        seconds += time.perf_counter() - start
        del features, each  # before the next group, which is as large
    return cells, best, seconds


def _count(images: ImageSet | None) -> int:
    return 0 if images is None else len(images)


def _judge(evaluation: Evaluation, features: CellFeatures, images: ScanImages, *, label_free: bool) -> ScannedCell:
    seed, classes = evaluation.run.recipe.seed, images.bank.num_classes
    return judge(features, seed=seed, num_classes=classes, device=str(evaluation.target), label_free=label_free)


def _embedding(evaluation: Evaluation) -> dict[str, Any]:
    """Options of ``embed`` as ``Evaluation.embeddings`` has them."""
    return {
        "batch_size": evaluation.run.recipe.eval.batch_size,
        "device": str(evaluation.target),
        "precision": evaluation.precision,
        "num_workers": decoding_workers(),
    }


def _judge_again(
    evaluation: Evaluation, scanned: CellFeatures, images: ScanImages, *, label_free: bool
) -> dict[str, Any]:
    """What the encoder gives that was stored: its scores, and how far its features are from those of the scan."""
    options = _embedding(evaluation)
    bank = embed(evaluation.trained, images.bank, **options)
    judged = embed(evaluation.trained, images.judged, **options) if images.judged is not None else None
    again = _judge(evaluation, CellFeatures(scanned.cell, bank, judged), images, label_free=label_free)
    largest = float(np.abs(bank.features - scanned.bank.features).max())
    return {
        "knn": again.knn,
        "linear": again.linear,
        "nfe": again.nfe,
        "largest_difference": largest / max(float(np.abs(scanned.bank.features).max()), 1e-30),
    }


def _standard_error(accuracy: float | None, images: ScanImages) -> float | None:
    """Of an accuracy in percent, by the number of images alone."""
    if accuracy is None or images.judged is None:
        return None
    return float((accuracy * (100.0 - accuracy) / len(images.judged)) ** 0.5)
