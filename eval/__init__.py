"""The shared evaluators: they see an encoder and a data set, and never how the encoder was made."""

from __future__ import annotations

from lightly_prg.eval.controls import RawPixels
from lightly_prg.eval.embed import Encoder, ImageDataset, embed
from lightly_prg.eval.embeddings import Embeddings, concatenate
from lightly_prg.eval.knn import KNNResult, evaluate_knn
from lightly_prg.eval.linear import LinearResult, evaluate_linear
from lightly_prg.eval.probe import LinearDraw
from lightly_prg.eval.report import (
    ResultRow,
    format_table,
    result_rows,
    verdict,
    write_report,
)
from lightly_prg.eval.result import result_to_dict

__all__ = [
    "Embeddings",
    "Encoder",
    "ImageDataset",
    "KNNResult",
    "LinearDraw",
    "LinearResult",
    "RawPixels",
    "ResultRow",
    "concatenate",
    "embed",
    "evaluate_knn",
    "evaluate_linear",
    "format_table",
    "result_rows",
    "result_to_dict",
    "verdict",
    "write_report",
]
