"""The shared evaluators: they see an encoder and a data set, and never how the encoder was made."""

from __future__ import annotations

from lightly_prg.eval.calibration import expected_calibration_error
from lightly_prg.eval.clustering import ClusteringResult, evaluate_clustering
from lightly_prg.eval.controls import PCA, RawPixels, fit_pca
from lightly_prg.eval.corruptions import CORRUPTIONS, corrupt
from lightly_prg.eval.corruptions.files import read_corrupted
from lightly_prg.eval.embed import Encoder, ImageDataset, embed
from lightly_prg.eval.embeddings import Embeddings, concatenate
from lightly_prg.eval.finetuning.finetune import FinetuneResult, finetune
from lightly_prg.eval.finetuning.heads import LinearHead, PRGHead
from lightly_prg.eval.finetuning.layer_decay import layer_groups
from lightly_prg.eval.finetuning.model import FineTuned
from lightly_prg.eval.finetuning.presets import PRESETS, FinetunePreset
from lightly_prg.eval.frechet import frechet_distance
from lightly_prg.eval.knn import KNNResult, evaluate_knn
from lightly_prg.eval.linear import LinearResult, evaluate_linear
from lightly_prg.eval.linear_augmented import AugmentedLinearResult, evaluate_linear_augmented
from lightly_prg.eval.probe import LinearDraw
from lightly_prg.eval.probe_classifier import ProbeClassifier, fit_probe
from lightly_prg.eval.report import (
    ResultRow,
    format_table,
    result_rows,
    verdict,
    write_report,
)
from lightly_prg.eval.result import result_to_dict
from lightly_prg.eval.retrieval import RetrievalResult, evaluate_retrieval
from lightly_prg.eval.robustness import RobustnessResult, evaluate_robustness

__all__ = [
    "CORRUPTIONS",
    "PCA",
    "PRESETS",
    "AugmentedLinearResult",
    "ClusteringResult",
    "Embeddings",
    "Encoder",
    "FineTuned",
    "FinetunePreset",
    "FinetuneResult",
    "ImageDataset",
    "KNNResult",
    "LinearDraw",
    "LinearHead",
    "LinearResult",
    "PRGHead",
    "ProbeClassifier",
    "RawPixels",
    "ResultRow",
    "RetrievalResult",
    "RobustnessResult",
    "concatenate",
    "corrupt",
    "embed",
    "evaluate_clustering",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_linear_augmented",
    "evaluate_retrieval",
    "evaluate_robustness",
    "expected_calibration_error",
    "finetune",
    "fit_pca",
    "fit_probe",
    "format_table",
    "frechet_distance",
    "layer_groups",
    "read_corrupted",
    "result_rows",
    "result_to_dict",
    "verdict",
    "write_report",
]
