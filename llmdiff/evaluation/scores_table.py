"""Every picture's scores as a Parquet file: a row a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmdiff.evaluation.evaluate import Evaluation
from llmdiff.evaluation.prompts import Prompt
from storage.io.files import write_file

ABOUT = ("model", "prompt", "category", "unit", "seed", "picture")


def write_scores(path: Path, evaluations: Mapping[str, Evaluation]) -> Path:
    """Write models' evaluations, whose pictures are paths: the columns of `ABOUT`, then the scores; return where."""
    tables = []
    for name, each in evaluations.items():
        columns = {
            "model": [name] * len(each.prompts),
            "prompt": [prompt.text for prompt in each.prompts],
            "category": [prompt.category for prompt in each.prompts],
            "unit": [prompt.unit for prompt in each.prompts],
            "seed": [prompt.seed for prompt in each.prompts],
            "picture": [str(picture) for picture in each.pictures],
        }
        tables.append(pa.table({**columns, **each.scores}))
    data = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.getvalue())
    return path


def read_scores(path: Path) -> dict[str, Evaluation]:
    """Return what `write_scores` wrote, models in its order; prompts are without their scenes."""
    table = pq.read_table(path)
    models = np.array(table["model"].to_pylist())
    evaluations = {}
    for name in dict.fromkeys(models.tolist()):
        rows = table.filter(pa.array(models == name))
        about = {column: rows[column].to_pylist() for column in ABOUT}
        prompts = [
            Prompt(text, seed, unit, category)
            for text, seed, unit, category in zip(
                about["prompt"], about["seed"], about["unit"], about["category"], strict=True
            )
        ]
        scores = {column: rows[column].to_numpy() for column in rows.column_names if column not in ABOUT}
        evaluations[name] = Evaluation(prompts, [Path(picture) for picture in about["picture"]], scores)
    return evaluations
