"""Evaluation on prompts whose facts are known: the same prompts and seeds for every model, with intervals."""

from llmdiff.evaluation.evaluate import Evaluation, evaluate, gap_recovered
from llmdiff.evaluation.prompts import Prompt, held_out_prompts

__all__ = ["Evaluation", "Prompt", "evaluate", "gap_recovered", "held_out_prompts"]
