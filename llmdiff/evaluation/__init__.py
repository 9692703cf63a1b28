"""Evaluation: the same prompts and seeds for every model, scores of every picture, intervals over prompts."""

from llmdiff.evaluation.compare import compare, compare_with_references
from llmdiff.evaluation.evaluate import Evaluation, evaluate, gap_recovered, score_model, score_pictures
from llmdiff.evaluation.gallery import Gallery, Model
from llmdiff.evaluation.metrics import METRICS, load_metric
from llmdiff.evaluation.prompt_files import read_prompts
from llmdiff.evaluation.prompts import Prompt, held_out_prompts
from llmdiff.sampling import Sampling

__all__ = [
    "METRICS",
    "Evaluation",
    "Gallery",
    "Model",
    "Prompt",
    "Sampling",
    "compare",
    "compare_with_references",
    "evaluate",
    "gap_recovered",
    "held_out_prompts",
    "load_metric",
    "read_prompts",
    "score_model",
    "score_pictures",
]
