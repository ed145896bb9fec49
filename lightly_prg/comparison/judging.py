"""Judging the cells of a comparison: every method by the same evaluators with the same options."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightly_prg.classifier import finetune_run, robustness
from lightly_prg.comparison.cells import Cell, first_difference
from lightly_prg.comparison.images import Images
from lightly_prg.comparison.records import Records
from lightly_prg.console import Console
from lightly_prg.cost import estimate
from lightly_prg.cost.training_cost import training_cost
from lightly_prg.data import DataInfo
from lightly_prg.errors import UserError
from lightly_prg.eval import concatenate, evaluate_knn, evaluate_linear, result_to_dict
from lightly_prg.eval.common_dimension import to_common_dimension
from lightly_prg.eval.linear import PENALTIES
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.files import read_json, write_json, write_text
from lightly_prg.hardware import cpu_model
from lightly_prg.recipe import EvalRecipe, KNNRecipe, LinearRecipe, Recipe, load_recipe, parse_recipe
from lightly_prg.recipe.comparison import EvaluatorsRecipe
from lightly_prg.run import Run, versions
from lightly_prg.scan import scan
from lightly_prg.scan.scores import SCAN_ITERATIONS, SCAN_K
from lightly_prg.scan.write import write_feature

# Facts of older versions, which left out some of it, are counted again.
_COUNTED = "all stages of the training, with the networks that teach and the heads"


@dataclass(frozen=True)
class JudgedRun(Run):
    """A run that is judged by the options of a comparison in place of its recipe's own.

    Args:
        folder: The run.
        settings: The comparison's.
    """

    settings: EvalRecipe

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run with the evaluators of the comparison."""
        return load_recipe(self.recipe_file).model_copy(update={"eval": self.settings})

    def write_result(self, evaluator: str, result: Mapping[str, Any], *, own_options: bool) -> Path:
        """Writes one result; under the plain name only where the run's own options are the comparison's."""
        own = own_options and load_recipe(self.recipe_file).eval == self.settings
        return super().write_result(evaluator, result, own_options=own)


@dataclass(frozen=True)
class Scanning:
    """How the feature of every method is chosen, alike for all.

    Attributes:
        taus: Positions on the path of a flow; None: those of ``lightly-prg scan``.
        together: Whether all of them together are a feature as well.
        pools: How activations are pooled.
        images: At most so many training, and so many validation images.
        finalists: So many of the best are judged again on more images.
        final_images: At most so many of each kind then.
        criterion: What ranks the features. One feature serves all evaluators, so that both accuracies count.
    """

    taus: tuple[float, ...] | None
    together: bool
    pools: tuple[str, ...]
    images: int
    finalists: int
    final_images: int
    criterion: str = "both"

    def request(self) -> dict[str, Any]:
        """What is written beside its result: what was asked for, and by which probes and grids cells are told apart."""
        told_apart_by = {"penalties": PENALTIES, "iterations": SCAN_ITERATIONS, "k": SCAN_K, "grids": "fitting"}
        content = asdict(self) | told_apart_by
        return {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}


@dataclass
class Judge:
    """Measures the cells of one comparison.

    Args:
        evaluators: What is measured.
        settings: The same as the ``eval`` section of a run.
        images: Gives the images of a recipe.
        trust: Whether the recipes' code may run.
        console: Where progress is shown.
        scanning: How features are chosen; None: they are not.
    """

    evaluators: EvaluatorsRecipe
    settings: EvalRecipe
    images: Images
    trust: bool
    console: Console
    scanning: Scanning | None = None

    def scan(self, cell: Cell, records: Records) -> None:
        """Chooses the feature of a run on validation images and stores it in the run.

        A scan that was cut off starts from the run as it was trained, so that it comes to the same choice.
        """
        assert self.scanning is not None
        if self._is_scanned(cell, records):
            return
        before, made_of = _unscanned(cell), self.made_of(cell)
        _undo_scan(Run(cell.folder), records.folder / "unscanned.json")
        evaluation = Evaluation(
            Run(cell.folder), data=self.images.of(cell.recipe), console=self.console, trust=self.trust
        )
        evaluation, _ = write_feature(evaluation, before)
        has_path = isinstance(evaluation.trained, PRGEncoder)
        found = scan(
            evaluation,
            taus=self.scanning.taus if has_path else None,
            together=self.scanning.together,
            pools=self.scanning.pools,
            criterion=self.scanning.criterion,
            max_images=self.scanning.images,
            write=True,
            finalists=self.scanning.finalists,
            final_images=self.scanning.final_images,
            quick=True,
        )
        result = result_to_dict(found)
        kept = ("chosen", "criterion", "judged_on", "standard_error")
        records.measured(
            "scan",
            lambda: {**{key: result[key] for key in kept}, "cells": len(result["cells"])},
            request=self._scan_request(cell),
            recipe_sha256=Run(cell.folder).description["recipe_sha256"],
            made_of=made_of,
        )

    def is_done(self, cell: Cell, records: Records) -> bool:
        """Whether everything that concerns this cell alone was measured of the run that its encoder.json describes."""
        run = Run(cell.folder)
        if not run.encoder_file.is_file() or "weights_crc32" not in run.description:  # older versions left it out
            return False
        if self.scanning is not None and not self._is_scanned(cell, records):
            return False
        work = _CellWork(self, cell, records)
        return all(work.knows(name, request) for name, request in self._requests(cell, work.finetuned))

    def _is_scanned(self, cell: Cell, records: Records) -> bool:
        known = records.known(
            "scan",
            request=self._scan_request(cell),
            recipe_sha256=Run(cell.folder).description["recipe_sha256"],
            made_of=self.made_of(cell),
        )
        return known is not None

    def _scan_request(self, cell: Cell) -> dict[str, Any]:
        assert self.scanning is not None
        before = {key: value.model_dump(mode="json") for key, value in _unscanned(cell).items()}
        return self.scanning.request() | before

    def made_of(self, cell: Cell) -> dict[str, Any]:
        """What decides a result beside recipe and options: a run can be trained anew, a folder hold other images."""
        return {
            "weights_crc32": Run(cell.folder).weights_crc32,
            "images": self.images.facts(cell.recipe).fingerprint,
        }

    def judge(self, cell: Cell, records: Records) -> None:
        """Everything that concerns one cell alone."""
        work = _CellWork(self, cell, records)
        ways = work.frozen("run") | {"finetune": work.finetune, "robustness": work.robustness}
        for name, request in self._requests(cell, work.finetuned):
            work.measure(name, request, ways[name])

    def _requests(self, cell: Cell, finetuned: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is measured of one cell alone, in order: by evaluator all its options, and what else decides.

        One after the other: what is fine-tuned first is the model that robustness is about.
        """
        evaluators = self.evaluators
        yield "facts", {"counted": _COUNTED}
        if evaluators.knn is not None:
            yield "knn", {"knn": evaluators.knn}
        if evaluators.linear is not None:
            yield "linear", {"linear": evaluators.linear}
        if evaluators.few_shot is not None:
            yield "few_shot", {"few_shot": evaluators.few_shot, "linear": evaluators.linear}
        if cell.finetune is not None:
            yield "finetune", {"finetune": cell.finetune}
        if evaluators.robustness is not None:
            of_probe = evaluators.robustness.of == "probe"
            model = {} if of_probe else {"finetune": cell.finetune, "model": _model_of(finetuned)}
            penalties = {"penalties": list(PENALTIES)} if of_probe else {}
            yield "robustness", {"robustness": evaluators.robustness, **model, **penalties}

    def judge_control(self, cell: Cell, name: EncoderName, records: Records) -> None:
        """k-NN and probes of what needs no training, on the images of a cell."""
        work = _ControlWork(self, cell, records, name)
        ways = work.frozen(name)
        for evaluator, request in self._requests(cell, work.finetuned):
            if evaluator in ways:
                work.measure(evaluator, request, ways[evaluator])

    def judge_at(self, cell: Cell, records: Records, dimension: int) -> None:
        """k-NN and linear probe after PCA to a dimension that all cells have."""
        work = _CellWork(self, cell, records)
        request = {"dimension": dimension, "knn": self.evaluators.knn, "linear": self.evaluators.linear}
        work.measure("common_dimension", request, lambda: work.at_dimension(dimension))


def _model_of(folder: Path) -> list[int | None] | None:
    """Checksums of a fine-tuned encoder and its head, None where there is none: trained again, it is another model."""
    files = (folder / "encoder.json", folder / "head.json")
    if not all(file.is_file() for file in files):
        return None
    return [read_json(file).get("weights_crc32") for file in files]


def _unscanned(cell: Cell) -> dict[str, Any]:
    """The feature and the solver of the recipe, which the grid of a scan starts from."""
    method = cell.recipe.method
    return {key: getattr(method, key) for key in ("feature", "ode") if hasattr(method, key)}


def _undo_scan(run: Run, backup: Path) -> None:
    """Puts a run back to the feature that it was trained with, where a scan was cut off; else remembers it."""
    if backup.is_file():
        before = read_json(backup)
        # A run that was trained anew in its place is no state of the one that was remembered.
        same = before["encoder"].get("weights_crc32", run.weights_crc32) == run.weights_crc32
        if same and first_difference(parse_recipe(before["recipe"]), run.recipe, scanned=True) is None:
            write_json(run.encoder_file, before["encoder"])
            write_text(run.recipe_file, before["recipe"])
            return
    recipe = run.recipe_file.read_text(encoding="utf-8")
    write_json(backup, {"encoder": run.description, "recipe": recipe})


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
    }


class _CellWork:
    """The measurements of one cell; images and encoder are read when the first needs them."""

    def __init__(self, judge: Judge, cell: Cell, records: Records) -> None:
        self.judge = judge
        self.cell = cell
        self.records = records
        self.run = JudgedRun(cell.folder, judge.settings)
        self.description = self.run.description
        self.made_of = judge.made_of(cell)

    @cached_property
    def evaluation(self) -> Evaluation:
        return Evaluation(
            self.run,
            data=self.judge.images.of(self.cell.recipe),  # the run's own may have been moved
            console=self.judge.console,
            trust=self.judge.trust,
        )

    def measure(self, name: str, request: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> None:
        self.records.measured(name, work, **self._asked(request))

    def knows(self, name: str, request: Mapping[str, Any]) -> bool:
        return self.records.known(name, **self._asked(request)) is not None

    def _asked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.judge.settings
        content: dict[str, Any] = {"split": settings.split, "batch_size": settings.batch_size}
        for key, value in request.items():
            content[key] = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        if "linear" in request:  # what no option says of a probe
            content["penalties"] = list(PENALTIES)
        return {"request": content, "recipe_sha256": self.description["recipe_sha256"], "made_of": self.made_of}

    def frozen(self, name: EncoderName) -> dict[str, Callable[[], Mapping[str, Any]]]:
        """How each is measured of an encoder that is not trained any more."""
        split, few = self.judge.settings.split, self.judge.evaluators.few_shot
        labels = few.labels if few is not None else None
        return {
            "facts": self.facts,
            "knn": lambda: self.evaluation.knn(name, split=split),
            "linear": lambda: self.evaluation.linear(name, split=split),
            "few_shot": lambda: self.evaluation.linear(name, split=split, labels=labels),
        }

    def facts(self) -> dict[str, Any]:
        """What the encoder is and cost, measured or counted; times are those of the training, of all its stages."""
        data, description = self.evaluation.splits, self.description
        info = DataInfo(
            data.train.channels,
            data.train.image_size,
            data.train.num_classes,
            len(data.train),
            len(data.validation),
            len(data.test),
        )
        spent = training_cost(self.run, trust=self.judge.trust)
        kept = ("method", "feature", "ode", "input_shape", "parameters", "embedding_dim", "nfe", "data")
        return {
            **{key: description[key] for key in kept if key in description},
            "training": spent.training,
            "embedding_macs": estimate(self.run.recipe, info, trust=self.judge.trust).embedding_macs,
            "training_macs": spent.macs,
            "versions": description.get("versions", {}),
            **_machine(),
        }

    def finetune(self) -> dict[str, Any]:
        """The result of fine-tuning; its model is a run of its own."""
        assert self.cell.finetune is not None
        target = Run(self.finetuned)
        if target.folder.exists() and not target.recipe_file.is_file():
            with target.lock():
                target.clear()  # what was being written when the process was killed
        _, result = finetune_run(
            self.evaluation,
            self.cell.finetune,
            split=self.judge.settings.split,
            out=target.folder,
            overwrite=True,
        )
        return result

    def robustness(self) -> dict[str, Any]:
        """Accuracy on corrupted images, of a probe or of the fine-tuned model."""
        wanted = self.judge.evaluators.robustness
        assert wanted is not None
        evaluation = self.evaluation
        if wanted.of == "finetuned":
            run = JudgedRun(self.finetuned, self.judge.settings)
            evaluation = Evaluation(
                run, data=self.evaluation.splits, console=self.judge.console, trust=self.judge.trust
            )
        result, _ = robustness(evaluation, split=self.judge.settings.split, max_images=wanted.max_images)
        return {**result, "of": wanted.of}

    def at_dimension(self, dimension: int) -> dict[str, Any]:
        """k-NN and linear probe as ``Evaluation`` has them, on projected features."""
        evaluation, settings = self.evaluation, self.judge.settings
        knn = settings.knn if settings.knn is not None else KNNRecipe()
        linear = settings.linear if settings.linear is not None else LinearRecipe()
        has_validation = settings.split == "test" and len(evaluation.splits.validation) > 0
        names = ["train", settings.split, *(["validation"] if has_validation else [])]
        try:
            train, judged, *rest = to_common_dimension(
                *(evaluation.embeddings("run", name) for name in names), dimension=dimension
            )
        except UserError as error:
            raise UserError(f"evaluators.common_dimension, {self.cell.label}: {error}") from None
        classes = evaluation.splits.train.num_classes
        nearest = evaluate_knn(
            concatenate(train, *rest),
            judged,
            k=knn.k,
            ks=tuple(sorted({*knn.ks, knn.k})),
            temperature=knn.temperature,
            transform=knn.transform,
            num_classes=classes,
            device=evaluation.target,
        )
        probe = evaluate_linear(
            train,
            judged,
            validation=rest[0] if rest else None,
            max_iterations=linear.max_iterations,
            seed=self.run.recipe.seed,
            num_classes=classes,
            device=str(evaluation.target),
        )
        return {"dimension": dimension, "knn": result_to_dict(nearest), "linear": result_to_dict(probe)}

    @property
    def finetuned(self) -> Path:
        """The run that fine-tuning makes of this cell."""
        return self.records.folder.parent.parent / "finetuned" / self.cell.key


class _ControlWork(_CellWork):
    """The measurements of an encoder that needs no training: only its images decide, and the seed of draws."""

    def __init__(self, judge: Judge, cell: Cell, records: Records, name: EncoderName) -> None:
        super().__init__(judge, cell, records)
        self.name: EncoderName = name
        self.made_of = {"images": self.made_of["images"]}

    def _asked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        asked = super()._asked({**request, "seed": self.cell.seed})
        return {**asked, "recipe_sha256": f"control {self.name}"}

    def facts(self) -> dict[str, Any]:
        """What it is; no training, and no network."""
        encoder: Any = self.evaluation.encoder(self.name)
        shape, length = self.description["input_shape"], encoder.embedding_dim
        return {
            "method": self.name,
            "input_shape": shape,
            "embedding_dim": length,
            "nfe": 0,
            "embedding_macs": 0 if self.name == "raw_pixels" else length * math.prod(shape),
            "data": self.description["data"],
            "training": {"steps": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0},
            "versions": versions(),
            **_machine(),
        }
