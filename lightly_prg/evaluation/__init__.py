"""Judging a run: its encoder and the controls go through the same evaluators, the results into the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightly_prg.console import Console
from lightly_prg.data import ImageSet, Splits
from lightly_prg.diagnostics import round_trip, sample
from lightly_prg.errors import MissingImages, UserError
from lightly_prg.eval import (
    Embeddings,
    RawPixels,
    concatenate,
    embed,
    evaluate_clustering,
    evaluate_knn,
    evaluate_linear,
    evaluate_linear_augmented,
    evaluate_retrieval,
    fit_pca,
    result_to_dict,
    write_report,
)
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.embed import in_unit_range
from lightly_prg.eval.result_files import choice_remark
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.files import read_json
from lightly_prg.full_precision import full_precision
from lightly_prg.hardware import Precision, decoding_workers, pick_precision
from lightly_prg.hardware.attention import use_fast_attention
from lightly_prg.hardware.layout import fast_layout
from lightly_prg.measurements.round_trips import round_trip_curve
from lightly_prg.methods import untrained_encoder
from lightly_prg.plotting import (
    plot_embedding_map,
    plot_round_trip,
    plot_samples,
    plot_trajectory,
)
from lightly_prg.randomness import generator_for
from lightly_prg.run import Run, load
from lightly_prg.train import load_splits

EncoderName = Literal["run", "raw_pixels", "pca", "random_network"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
ROUND_TRIP_SOLVERS = ("euler", "heun2", "rk4", "dopri5")


@dataclass
class Evaluation:
    """The evaluators, applied to one run folder.

    Args:
        run: A trained run.
        data: Image sets of your own, where the run was trained on them; default the recipe's.
        root: Where the recipe's data lie on this machine, if not where they lay in training.
        console: Where progress is shown.
        trust: Whether a run with a network of your own may run its code.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        UserError: If the run is not trained or its data are not there, or there is no such device.
    """

    run: Run
    data: Splits | None = None
    root: str | None = None
    console: Console = field(default_factory=lambda: Console(quiet=True))
    trust: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        resolve_device(self.device)  # before cached embeddings make it seem that there is one

    @cached_property
    def description(self) -> dict[str, Any]:
        """encoder.json."""
        return self.run.description

    @cached_property
    def splits(self) -> Splits:
        """The image sets, loaded when they are first needed."""
        if self.data is not None:
            return self.data
        recipe = self.run.recipe
        if self.root is not None:
            recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": self.root})})
        try:
            splits = load_splits(recipe, self.console)
        except MissingImages as error:
            raise MissingImages(f"{error} For a run, --root says where its images lie now.") from None
        # Of folders alone: named sets are the same everywhere. A version that did not note it is believed.
        noted = self.run.trained_on
        if recipe.data.name == "folder" and noted not in (None, splits.fingerprint):
            raise UserError(
                f"{self.run.folder} was trained on other images than {recipe.data.root} holds now: some that it was "
                "trained on would judge it. Images that it was not trained on are judged by `lightly-prg transfer`."
            )
        self._check_split(splits)
        return splits

    def _check_split(self, splits: Splits) -> None:
        """Refuses a recipe.yaml that was edited so that other images were trained on than it says."""
        asked = {
            "split_seed": ("a seed of", self.run.recipe.seed),
            "num_train": ("training images to the number of", len(splits.train)),
            "num_validation": ("validation images to the number of", len(splits.validation)),
            "num_test": ("test images to the number of", len(splits.test)),
        }
        for key, (what, value) in asked.items():
            noted = self.description["data"].get(key, value)  # older versions noted no seed
            if noted != value:
                raise UserError(
                    f"{self.run.recipe_file} was changed after the training: it asks for {what} {value}, and the "
                    f"encoder was trained with {noted}; images that it was trained on would judge it."
                )

    @cached_property
    def target(self) -> torch.device:
        """Where everything is computed."""
        return resolve_device(self.device)

    @cached_property
    def precision(self) -> Precision:
        """The number format that networks compute in there."""
        return pick_precision("auto", self.target).precision

    @cached_property
    def trained(self) -> PRGEncoder | NetworkEncoder:
        """The run's encoder, on the device."""
        encoder = load(self.run.folder, trust=self.trust)
        self._place(encoder)
        return encoder

    @property
    def prg(self) -> PRGEncoder:
        """The run's encoder, where it has a flow.

        Raises:
            UserError: If its method has none.
        """
        if not isinstance(self.trained, PRGEncoder):
            raise UserError(f"{self.run.folder} was trained by {self.description['method']}, which has no flow.")
        return self.trained

    @cached_property
    def _pca(self) -> nn.Module:
        with self.console.task("finding principal components", 1):
            return fit_pca(
                self.images("train"), input_shape=self.description["input_shape"], num_workers=decoding_workers()
            )

    def encoder(self, name: EncoderName) -> nn.Module:
        """The run's encoder or one of its controls.

        ``random_network`` is the same network with fresh weights, of which those that start at zero are drawn as
        well: otherwise the flow would be the identity and the control equal to raw pixels.
        """
        if name == "run":
            return self.trained
        if name == "raw_pixels":
            return RawPixels(tuple(self.description["input_shape"]))
        if name == "pca":
            return self._pca
        encoder = untrained_encoder(self.description, seed=self.run.recipe.seed, trust=self.trust)
        self._place(encoder)
        return encoder

    def _place(self, encoder: PRGEncoder | NetworkEncoder) -> None:
        """Brings an encoder to the device, in the form that is fastest there."""
        encoder.to(self.target)
        encoder.network.to(memory_format=fast_layout(encoder.network, self.target, self.precision))
        use_fast_attention(encoder.network, self.target, self.precision)

    def images(self, split: str) -> ImageSet:
        """The images of a split.

        Raises:
            UserError: If there is no such split, or it is empty.
        """
        if split not in ("train", "validation", "test"):
            raise UserError(f"There is no split {split!r}; allowed are train, validation and test.")
        images: ImageSet = getattr(self.splits, split)
        if len(images) == 0:
            raise UserError(f"The {split} split of this run is empty; choose another with --split.")
        return images

    def some_images(self, split: str, count: int) -> ImageSet:
        """At most ``count`` images of a split, drawn by the run's seed: folders are sorted by class.

        Raises:
            UserError: As ``images``.
        """
        images = self.images(split)
        generator = generator_for(self.run.recipe.seed, "measured images", split)
        return images.subset(torch.randperm(len(images), generator=generator)[:count].sort().values)

    def unfitted_split(self, split: str | None, what: str) -> str:
        """The split that is judged; default the recipe's.

        Args:
            split: As it was given.
            what: What is fitted to the training images, for the message.

        Raises:
            UserError: If it is that of the training images, or there is no such split.
        """
        split = split if split is not None else self.run.recipe.eval.split
        if split == "train":
            raise UserError(f"{what} the training images: take validation or test to judge it.")
        self.images(split)
        return split

    def embeddings(self, name: EncoderName, split: str) -> Embeddings:
        """The embeddings of a split, from the cache where they are known."""
        images = self.images(split)
        title = f"embedding {len(images)} {split} images with {name.replace('_', ' ')}"
        with self.console.task(title, len(images)) as update:
            return embed(self.encoder(name), images, **self.embedding_options(name), progress=update)

    def embedding_options(self, name: EncoderName) -> dict[str, Any]:
        """How an encoder of this run is asked for embeddings."""
        return {
            "batch_size": self.run.recipe.eval.batch_size,
            "device": str(self.target),
            "precision": self.precision if name in ("run", "random_network") else "32",
            "cache_dir": self.run.embeddings,
            "num_workers": decoding_workers(),
        }

    def knn(
        self,
        name: EncoderName = "run",
        *,
        split: str | None = None,
        k: int | None = None,
        temperature: float | None = None,
        transform: str | None = None,
        preset: str | None = None,
        backend: str = "auto",
    ) -> dict[str, Any]:
        """Weighted k-NN; options that are None are the recipe's. Writes and returns the result."""
        recipe = self.run.recipe.eval
        settings = recipe.knn if recipe.knn is not None else type(recipe)().knn
        assert settings is not None
        own_transform = settings.transform if preset is None else "none"  # a preset is a protocol of its own
        split = self._labelled(split)
        result = evaluate_knn(
            self._bank(name, split),
            self.embeddings(name, split),
            k=k if k is not None else settings.k,
            ks=tuple(sorted({*settings.ks, k if k is not None else settings.k})),
            temperature=temperature if temperature is not None else settings.temperature,
            transform=transform if transform is not None else own_transform,
            num_classes=self.splits.train.num_classes,
            preset=preset,
            backend=backend,
            device=self.target,
        )
        own = all(option is None for option in (k, temperature, transform, preset)) and split == recipe.split
        return self._write("knn", name, split, result, own=own)

    def linear(
        self,
        name: EncoderName = "run",
        *,
        split: str | None = None,
        labels: int | float | None = None,
        draws: int | None = None,
    ) -> dict[str, Any]:
        """Logistic regression on the frozen features, with all labels or few. Writes and returns the result.

        On ``test`` the penalty is chosen on the validation split and the fit repeated on training and validation
        images; on ``validation`` it is chosen on a tenth of the training images, so that what is reported was not
        used to choose.
        """
        recipe = self.run.recipe.eval
        settings = recipe.linear if recipe.linear is not None else type(recipe)().linear
        few = recipe.few_shot if recipe.few_shot is not None else type(recipe)().few_shot
        assert settings is not None
        assert few is not None
        split = self._unfitted(split)
        has_validation = split == "test" and len(self.splits.validation) > 0
        result = evaluate_linear(
            self.embeddings(name, "train"),
            self.embeddings(name, split),
            validation=self.embeddings(name, "validation") if has_validation else None,
            labels=labels,
            draws=draws if draws is not None else few.draws,
            max_iterations=settings.max_iterations,
            seed=self.run.recipe.seed,
            num_classes=self.splits.train.num_classes,
            device=str(self.target),
        )
        return self._write("linear", name, split, result, own=labels is None and split == recipe.split)

    def linear_augmented(
        self, name: EncoderName = "run", *, split: str | None = None, epochs: int | None = None
    ) -> dict[str, Any]:
        """The classic probe: SGD on augmented views of the frozen encoder. Writes and returns the result."""
        split = self._unfitted(split)
        has_validation = split == "test" and len(self.splits.validation) > 0
        with self.console.task(f"linear probe on augmented views, {name.replace('_', ' ')}", 1) as update:
            result = evaluate_linear_augmented(
                self.encoder(name),
                self.images("train"),
                self.images(split),
                validation=self.images("validation") if has_validation else None,
                epochs=epochs if epochs is not None else 20,
                horizontal_flip=self.run.recipe.mirrors,
                seed=self.run.recipe.seed,
                num_classes=self.splits.train.num_classes,
                device=str(self.target),
                precision=self.precision,
                num_workers=decoding_workers(),
                progress=update,
            )
        return self._write("linear_augmented", name, split, result, own=epochs is None and split == self._own_split)

    def retrieval(self, name: EncoderName = "run", *, split: str | None = None) -> dict[str, Any]:
        """Mean average precision and recall at k, with the bank of k-NN. Writes and returns the result."""
        split = self._labelled(split)
        bank, query = self._bank(name, split), self.embeddings(name, split)
        with self.console.task(f"ranking the bank, {name.replace('_', ' ')}", 1) as update:
            result = evaluate_retrieval(bank, query, num_classes=self.splits.train.num_classes, device=str(self.target))
            update(1)
        return self._write("retrieval", name, split, result, own=split == self._own_split)

    def clustering(self, name: EncoderName = "run", *, split: str | None = None) -> dict[str, Any]:
        """k-means on the judged images alone, against their classes. Writes and returns the result."""
        split = self._labelled(split)
        judged = self.embeddings(name, split)
        with self.console.task(f"clustering, {name.replace('_', ' ')}", 1) as update:
            result = evaluate_clustering(judged, num_classes=self.splits.train.num_classes, seed=self.run.recipe.seed)
            update(1)
        return self._write("clustering", name, split, result, own=split == self._own_split)

    def _bank(self, name: EncoderName, split: str) -> Embeddings:
        """What images are looked up in: those of training and, where test images are judged, of validation."""
        if split == "train":
            raise UserError(
                "Every training image would find itself among the training images: take validation or test."
            )
        bank = self.embeddings(name, "train")
        if split == "test" and len(self.splits.validation):
            bank = concatenate(bank, self.embeddings(name, "validation"))
        return bank

    @property
    def _own_split(self) -> str:
        return self.run.recipe.eval.split

    def _unfitted(self, split: str | None) -> str:
        return self._labelled(self.unfitted_split(split, "A probe is fitted to"))

    def _labelled(self, split: str | None) -> str:
        split = split if split is not None else self.run.recipe.eval.split
        if not (self.splits.train.labelled and self.images(split).labelled):
            raise UserError(f"The images of {self.run.recipe.data.name} have no labels, which k-NN and probes need.")
        return split

    def _write(self, evaluator: str, name: EncoderName, split: str, result: Any, *, own: bool) -> dict[str, Any]:
        content = {
            "encoder": name,
            "split": split,
            **result_to_dict(result),
            "seed": self.run.recipe.seed,
            "recipe_sha256": self.description["recipe_sha256"],
        }
        self.run.write_result(evaluator, content, own_options=own and name == "run")
        if name == "run" and (remark := choice_remark(self.description, split)):
            self.console.say(remark)
        return content

    def samples(self, count: int = 64, *, steps: int = 50, solver: str = "heun2", seed: int | None = None) -> Path:
        """Generates images and draws them into figures/samples.png."""
        seed = self.run.recipe.seed if seed is None else seed
        with full_precision(self.target):
            images = sample(self.prg, count, steps=steps, solver=solver, generator=generator_for(seed, "samples"))
        path = self.run.figures / "samples.png"
        plot_samples(images, path)
        return path

    def trajectory(
        self, index: int = 0, *, split: str | None = None, steps: int = 50, solver: str = "heun2"
    ) -> tuple[Path, float]:
        """Draws one image's path to noise and back into figures/trajectory.png; returns it and the error."""
        images = self.images(split if split is not None else self.run.recipe.eval.split)
        if not 0 <= index < len(images):
            raise UserError(f"There is no image {index}; the split holds {len(images)}.")
        with full_precision(self.target):
            trip = round_trip(self.prg, images[index][0][None].float() / 255, steps=steps, solver=solver)
        path = self.run.figures / "trajectory.png"
        plot_trajectory(
            trip.forward.states[:, 0].cpu(),
            trip.forward.tau.cpu(),
            trip.backward.states[:, 0].cpu(),
            trip.backward.tau.cpu(),
            path,
            round_trip_error=trip.rmse,
        )
        return path, trip.rmse

    def round_trip(
        self,
        count: int = 32,
        *,
        split: str | None = None,
        solvers: Sequence[str] = ROUND_TRIP_SOLVERS,
    ) -> dict[str, Any]:
        """Measures the round-trip error of several solvers against their price; writes it and its figure.

        What was measured of other solvers before, on the same images, stays beside it.
        """
        split = split if split is not None else self.run.recipe.eval.split
        batch = in_unit_range(self.some_images(split, count).pixels())
        with full_precision(self.target):
            measured = {solver: round_trip_curve(self.prg, batch, solver) for solver in solvers}
        made_of = {
            "encoder": "run",
            "split": split,
            "images": len(batch),
            "drawn": True,
            "recipe_sha256": self.description["recipe_sha256"],
            "weights_crc32": self.run.weights_crc32,
        }
        curves = self._round_trips_before(made_of) | {
            solver: [result_to_dict(point) for point in points] for solver, points in measured.items()
        }
        plot_round_trip(
            {solver: [(point["nfe"], point["rmse"]) for point in points] for solver, points in curves.items()},
            self.run.figures / "round_trip.png",
        )
        result = {**made_of, "curves": curves}
        self.run.write_result("round_trip", result, own_options=True)
        return result

    def _round_trips_before(self, made_of: Mapping[str, Any]) -> dict[str, Any]:
        with suppress(UserError):  # missing, or damaged: measured again
            there = read_json(self.run.folder / "eval" / "round_trip.json")
            if all(there.get(key) == value for key, value in made_of.items()) and isinstance(there.get("curves"), dict):
                return dict(there["curves"])
        return {}

    def all(self, *, every: bool = False) -> Path:
        """Everything the recipe asks for, for the run and its controls, then the report.

        Args:
            every: Retrieval and clustering as well.

        Returns:
            The path of report.html.
        """
        recipe = self.run.recipe.eval
        labelled = self.splits.train.labelled and self.images(recipe.split).labelled
        if not labelled:
            self.console.say("The images have no labels: k-NN and the probes are left out.")
        encoders: tuple[EncoderName, ...] = ("run", *recipe.controls)
        for name in encoders if labelled else ():
            if recipe.knn is not None:
                self.knn(name)
            if recipe.linear is not None:
                self.linear(name)
            if recipe.few_shot is not None:
                self.linear(name, labels=recipe.few_shot.labels)
            if every:
                self.retrieval(name)
                self.clustering(name)
        if isinstance(self.trained, PRGEncoder):
            self._step("drawing samples", self.samples)
            self._step("drawing a trajectory", self.trajectory)
            # One solver: `measure` compares several, which takes as long as embedding the images.
            self._step("measuring the round trip", lambda: self.round_trip(solvers=("heun2",)))
        self._step("drawing the map of embeddings", self.map)
        return self.report()

    def _step(self, title: str, work: Callable[[], object]) -> None:
        with self.console.task(title, 1) as update:
            work()
            update(1)

    def map(self) -> Path:
        """Draws a 2-D map of the embeddings of the evaluated split."""
        images = self.images(self.run.recipe.eval.split)
        embeddings = self.embeddings("run", self.run.recipe.eval.split)
        path = self.run.figures / "embedding_map.png"
        plot_embedding_map(embeddings.features, embeddings.labels, images.class_names, path)
        return path

    def report(self) -> Path:
        """Renders report.html from what the folder holds."""
        return write_report(self.run.folder)
