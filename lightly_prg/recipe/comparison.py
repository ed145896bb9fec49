"""Comparison recipes: which methods, which seeds, how much training each, judged by what.

As ``lightly_prg.recipe``, nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from lightly_prg.errors import UserError
from lightly_prg.recipe import (
    EvalRecipe,
    FewShotRecipe,
    FinetuneRecipe,
    KNNRecipe,
    LinearRecipe,
    Recipe,
    load_recipe,
)
from lightly_prg.recipe.feature import Pool
from lightly_prg.recipe.reading import checked, file_of, has_key, mapping_of, shipped_texts, text_of
from lightly_prg.recipe.section import Fraction, Integer, Number, Positive, Section
from lightly_prg.run import Run

# What a fine-tuning may have of its own in a method; all else is the comparison's.
_FINETUNE_KEYS = ("feature", "ode", "blocks", "beta", "learning_rates")


CONTROLS = {"raw_pixels": "raw pixels", "pca": "PCA"}
"""What needs no training, by the name that tables show."""


def slug_of(label: str) -> str:
    """A label as a part of file names."""
    return re.sub(r"[^\w.+-]+", "-", label).strip("-.").lower() or "method"


class MethodEntry(Section):
    """One line of the table.

    Attributes:
        label: Its name in tables and figures.
        recipe: A recipe by name or path, or the folder of a run that was not fine-tuned: a run of the same recipe
            serves for its seed and is not trained again.
        overrides: ``key=value``, as ``lightly-prg train`` takes them.
        finetune: ``key=value`` of ``eval.finetune`` that belong to the method: ``feature.*``, ``ode.*``, ``blocks``,
            ``beta``, ``learning_rates``.
        share: Of the budget: half of it where one objective comes after the other. The shares of a method and of
            those that it starts from add up to 1 at most.
        steps_of: The label of a method further up, whose steps it takes instead of those that the budget pays for:
            what a part of that method reaches alone, at as many updates.
        start_from: The label of a method further up, whose run of the same seed gives the first weights.
    """

    label: Annotated[str, Field(min_length=1)]
    recipe: str
    overrides: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    share: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    steps_of: str | None = None
    start_from: str | None = None

    @model_validator(mode="after")
    def _finetune_is_the_methods_own(self) -> MethodEntry:
        for override in self.finetune:
            key = override.partition("=")[0].split(".")[0].strip()
            if key not in _FINETUNE_KEYS:
                raise ValueError(
                    f"finetune of {self.label!r} has {override!r}: a method decides over "
                    f"{', '.join(_FINETUNE_KEYS)}, the comparison over all else"
                )
        return self

    @property
    def slug(self) -> str:
        """The label as a part of file names."""
        return slug_of(self.label)


class BudgetRecipe(Section):
    """How much training every method gets: so many seconds of CPU or GPU, epochs, or multiply-adds.

    Attributes:
        kind: Of what.
        amount: How much of it.
    """

    kind: Literal["cpu_seconds", "gpu_seconds", "epochs", "macs"]
    amount: Annotated[Number, Field(gt=0.0)]


class RobustnessRecipe(Section):
    """Accuracy on corrupted images; see ``lightly_prg.eval.evaluate_robustness``.

    Attributes:
        max_images: At most so many, drawn at random; null: all.
        of: A linear probe on the frozen encoder, or the fine-tuned model.
    """

    max_images: Positive | None = 1000
    of: Literal["probe", "finetuned"] = "probe"


class EvaluatorsRecipe(Section):
    """What every method is judged by; None leaves an evaluator out.

    Attributes:
        knn: The k-NN classifier.
        linear: The linear probe.
        few_shot: The probe with few labels.
        finetune: Fine-tuning.
        robustness: Accuracy on corrupted images.
        common_dimension: k-NN and probe after PCA to so many dimensions, for the encoders that have them; ``auto``: the
            smallest of all encoders that the training images span.
    """

    knn: KNNRecipe | None = KNNRecipe()
    linear: LinearRecipe | None = LinearRecipe()
    few_shot: FewShotRecipe | None = FewShotRecipe()
    finetune: FinetuneRecipe | None = None
    robustness: RobustnessRecipe | None = None
    common_dimension: Positive | Literal["auto"] | None = "auto"

    @model_validator(mode="after")
    def _robustness_has_its_model(self) -> EvaluatorsRecipe:
        if self.robustness is not None and self.robustness.of == "finetuned" and self.finetune is None:
            raise ValueError("robustness of the fine-tuned model needs `finetune` as well")
        return self

    def settings(self, split: Literal["validation", "test"], batch_size: int) -> EvalRecipe:
        """The ``eval`` section that every run of the comparison is judged by."""
        return EvalRecipe(
            split=split,
            batch_size=batch_size,
            knn=self.knn,
            linear=self.linear,
            few_shot=self.few_shot,
            finetune=self.finetune,
            controls=(),
        )


class ComparisonRecipe(Section):
    """Everything about a comparison.

    Attributes:
        name: Names the folder.
        description: What it is to tell.
        methods: The lines of the table.
        reference: The label that differences are taken to; default the first.
        seeds: Every method is trained once with each.
        overrides: ``key=value`` for all methods, before their own.
        budget: None: as long as the recipes say.
        evaluators: What is measured.
        controls: Encoders without a trained network that stand in the table, too; k-NN and probes alone are theirs.
        scan: Whether each method's feature is chosen on validation images before it is judged.
        scan_taus: Positions on the path of a flow that the scan looks at; None: those of ``lightly-prg scan``. Few
            bound what an embedding costs.
        scan_together: Whether the scan also offers a flow's activation at all positions together. A network that is run
            once is read at one layer; for equal terms a flow is read at one position, too.
        scan_pools: How the scan pools activations, the same for every method: more positions give longer features.
        scan_images: The scan judges by at most so many validation images, from as many training images.
        scan_finalists: So many of the best features are judged again on more images, and the best of them is taken; 0:
            the first judgement decides.
        scan_final_images: At most so many of each kind for the finalists.
        split: What is judged. A scan chooses on validation images, so that it needs the test images for its result.
        batch_size: Of embedding.
        may_differ: What methods may differ in although a comparison needs it equal: what it is about.
        out: The folder; default ``comparisons/<name>``.
    """

    name: Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]
    description: str = ""
    methods: Annotated[tuple[MethodEntry, ...], Field(min_length=1)]
    reference: str | None = None
    seeds: Annotated[tuple[Annotated[Integer, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    overrides: tuple[str, ...] = ()
    budget: BudgetRecipe | None = None
    evaluators: EvaluatorsRecipe = EvaluatorsRecipe()
    controls: tuple[Literal["raw_pixels", "pca"], ...] = ()
    scan: bool = False
    scan_taus: Annotated[tuple[Fraction, ...], Field(min_length=1)] | None = None
    scan_together: bool = False
    scan_pools: Annotated[tuple[Pool, ...], Field(min_length=1)] = ("mean", "grid:2")
    scan_images: Positive = 3000
    scan_finalists: Annotated[Integer, Field(ge=0)] = 0
    scan_final_images: Positive = 10_000
    split: Literal["validation", "test"] = "validation"
    batch_size: Positive = 250
    may_differ: tuple[Literal["augment", "train_size"], ...] = ()
    out: str | None = None

    @field_validator("out")
    @classmethod
    def _out_lies_here(cls, out: str | None) -> str | None:
        # A recipe may come from a stranger; --out is the user's own word.
        if out is not None and (not out or PurePath(out).is_absolute() or ".." in PurePath(out).parts):
            raise ValueError("a recipe names a folder below the current one, without `..`; --out takes any")
        return out

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> ComparisonRecipe:
        shown = [method.label for method in self.methods] + [CONTROLS[name] for name in self.controls]
        slugs = [slug_of(label) for label in shown]
        for index, slug in enumerate(slugs):
            if slug in slugs[:index]:
                first = shown[slugs.index(slug)]
                raise ValueError(f"the labels {first!r} and {shown[index]!r} give the same folder {slug!r}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; each may stand there once")
        if self.scan and self.split == "validation":
            raise ValueError(
                "scan chooses features on the validation images, which cannot judge them as well: take split=test "
                "or scan=false"
            )
        labels = [method.label for method in self.methods]
        for index, method in enumerate(self.methods):
            if method.start_from is not None and method.start_from not in labels[:index]:
                raise ValueError(
                    f"{method.label!r} starts from {method.start_from!r}, which has to be a method above it"
                )
            if method.steps_of is not None and method.steps_of not in labels[:index]:
                raise ValueError(
                    f"{method.label!r} takes the steps of {method.steps_of!r}, which has to be a method above it"
                )
            if method.share != 1.0 and method.steps_of is not None:
                raise ValueError(f"{method.label!r} has both `share` and `steps_of`; one decides over its steps")
            if (method.share != 1.0 or method.steps_of is not None) and self.budget is None:
                key = "share" if method.steps_of is None else "steps_of"
                raise ValueError(f"{method.label!r} has `{key}`, and there is no budget")
            chain = [stage for stage in self._stages(method) if stage.steps_of is None]
            total = sum(stage.share for stage in chain)
            if self.budget is not None and total > 1.0 + 1e-9:
                raise ValueError(
                    f"{' and then '.join(repr(stage.label) for stage in chain)} take {total:g} of the budget, and a "
                    "method gets it once: give each of them its `share`, for example 0.5"
                )
        if self.reference is not None and self.reference not in labels:
            raise ValueError(f"reference is {self.reference!r}; allowed are {', '.join(map(repr, labels))}")
        return self

    def _stages(self, method: MethodEntry) -> list[MethodEntry]:
        """The methods that are trained one after the other, of which this one is the last."""
        chain = [method]
        while (start := chain[0].start_from) is not None:
            chain.insert(0, next(other for other in self.methods if other.label == start))
        return chain

    def recipe_of(self, method: MethodEntry, seed: int) -> Recipe:
        """The recipe of one cell, before its budget.

        Raises:
            UserError: If the method's recipe or an override is wrong.
        """
        settings = self.evaluators.settings(self.split, self.batch_size)
        path = Path(method.recipe)
        run = Run(path.parent if path.name == "recipe.yaml" else path)
        if run.recipe_file.is_file() and run.is_finetuned:
            raise UserError(
                f"Method {method.label!r}: {run.folder} is a fine-tuned run, and a comparison trains without labels "
                "before it fine-tunes: name the run that was fine-tuned and ask for evaluators.finetune, or compare "
                "finished runs with `lightly-prg compare RUN RUN`."
            )
        check_choice(run, self.split)
        try:
            recipe = load_recipe(method.recipe, (*self.overrides, *method.overrides))
        except UserError as error:
            raise UserError(f"Method {method.label!r}: {error}") from None
        return recipe.model_copy(update={"name": f"{method.slug}-seed{seed}", "seed": seed, "eval": settings})

    def finetune_of(self, method: MethodEntry) -> FinetuneRecipe | None:
        """The fine-tuning of a method: the comparison's, with what belongs to the method.

        Raises:
            UserError: If an override does not fit.
        """
        if self.evaluators.finetune is None:
            return None
        content = self.evaluators.finetune.model_dump()
        return checked(FinetuneRecipe, content, method.finetune, origin=f"Method {method.label!r}")

    def paying(self, method: MethodEntry) -> MethodEntry:
        """The method whose share of the budget decides over the steps of this one: mostly itself."""
        while method.steps_of is not None:
            method = next(other for other in self.methods if other.label == method.steps_of)
        return method

    def promised(self, method: MethodEntry) -> float | None:
        """What the training of a method may take, that of the methods it starts from included.

        None without a budget, and where it takes the steps of another method.
        """
        stages = self._stages(method)
        if self.budget is None or any(stage.steps_of is not None for stage in stages):
            return None
        return self.budget.amount * sum(stage.share for stage in stages)

    def to_yaml(self) -> str:
        """The fully resolved recipe; ``parse_comparison`` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100, default_flow_style=None)


def shipped_comparisons() -> dict[str, str]:
    """Maps the name of every shipped comparison recipe to its text."""
    return shipped_texts("lightly_prg.recipes", "comparisons")


def check_choice(run: Run, split: str) -> None:
    """Refuses a run whose feature, or learning rate of fine-tuning, was chosen on the images that are to judge it.

    Args:
        run: A run folder; one that is none passes.
        split: What judges.

    Raises:
        UserError: If it was.
    """
    if not run.recipe_file.is_file():
        return
    noted = run.description.get("chosen_on") if run.encoder_file.is_file() else None
    for what, chosen_on in (noted if isinstance(noted, dict) else {}).items():
        if chosen_on == split:
            raise UserError(
                f"{run.folder}: its {what} was chosen on the {split} images, which therefore cannot judge it. "
                "Compare on the other split."
            )


def is_comparison(source: str) -> bool:
    """Whether a name or path is that of a comparison: a shipped one, or a file or folder that holds one."""
    path = file_of(source, "comparison.yaml")
    return (
        source in shipped_comparisons() if path is None else path.name == "comparison.yaml" or has_key(path, "methods")
    )


def folder_of(source: str | Path) -> Path | None:
    """The folder of a comparison, where ``source`` is one or the comparison.yaml in it; None for all else."""
    path = Path(source)
    folder = path.parent if path.name == "comparison.yaml" else path
    begun = (folder / "comparison.yaml").is_file() and any((folder / name).exists() for name in ("runs", "results"))
    return folder if begun else None


def load_comparison(source: str | Path, overrides: Sequence[str] = ()) -> ComparisonRecipe:
    """Reads a comparison recipe by path or shipped name and applies ``key.sub=value`` overrides.

    Args:
        source: Path of a YAML file, the name of a shipped comparison, or the folder of a comparison.
        overrides: For example ``["budget.amount=60", "seeds=[0]"]``; values are read as YAML.

    Raises:
        UserError: If there is no such recipe, or a key, type or value is wrong.
    """
    path = file_of(source, "comparison.yaml")
    text = text_of(source, path, shipped_comparisons(), kind="comparison", nor="no run folder, ")
    return parse_comparison(text, overrides=overrides, origin=str(path or source))


def parse_comparison(text: str, *, overrides: Sequence[str] = (), origin: str = "comparison") -> ComparisonRecipe:
    """Parses YAML text into a comparison recipe, see ``load_comparison``."""
    raw = mapping_of(text, origin=origin, kind="comparison", keys="name and methods")
    return checked(ComparisonRecipe, raw, overrides, origin=origin)
