"""Prompts as the benchmarks publish them; what is no prompt is named with its file and row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmdiff.evaluation import Prompt, read_prompts


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_of_text_with_several_seeds(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "a cat\n\n  a dog \na cat\n")
    assert read_prompts(file, [3, 4]) == [
        Prompt("a cat", 3, 0),
        Prompt("a cat", 4, 0),
        Prompt("a dog", 3, 1),
        Prompt("a dog", 4, 1),
    ]


def test_parti_prompts_with_their_categories(tmp_path: Path) -> None:
    table = (
        'Prompt\tCategory\tChallenge\tNote\na "quoted" cat\tAnimals\tBasic\t\nbond\tAbstract\tBasic\tmany meanings\n'
    )
    found = read_prompts(written(tmp_path / "PartiPrompts.tsv", table))
    assert [(each.text, each.category) for each in found] == [('a "quoted" cat', "Animals"), ("bond", "Abstract")]
    comma = read_prompts(written(tmp_path / "parti.csv", 'Prompt,Category\n"a cat, sitting",Animals\n'))
    assert [(each.text, each.category) for each in comma] == [("a cat, sitting", "Animals")]


def test_geneval_and_dpg_bench_in_json_lines(tmp_path: Path) -> None:
    rows = [{"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "a photo of two cats"}]
    geneval = read_prompts(written(tmp_path / "geneval.jsonl", "\n".join(map(json.dumps, rows))))
    assert [(each.text, each.category) for each in geneval] == [("a photo of two cats", "counting")]
    dpg = read_prompts(written(tmp_path / "dpg.jsonl", '{"id": "0", "text": "A field.\\u2028Green."}\n'))
    assert [(each.text, each.category) for each in dpg] == [("A field.\u2028Green.", "")]


def test_folders_of_text_files(tmp_path: Path) -> None:
    for name in ("color_val", "color_train", "shape_val", "shape"):
        written(tmp_path / "compbench" / f"{name}.txt", f"a {name} thing\nanother {name} thing\n")
    found = read_prompts(tmp_path / "compbench")
    assert [(each.text, each.category) for each in found] == [
        ("a color_val thing", "color"),
        ("another color_val thing", "color"),
        ("a shape_val thing", "shape"),
        ("another shape_val thing", "shape"),
    ]
    for name in ("0", "1"):
        written(tmp_path / "dpg" / f"{name}.txt", f"prompt {name}")
    assert [(each.text, each.category) for each in read_prompts(tmp_path / "dpg")] == [
        ("prompt 0", ""),
        ("prompt 1", ""),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "prompt,category\na cat,x\n ,y\n", r"a\.csv: row 1 \(from 0\): expected a prompt, found ' '"),
        ("a.jsonl", '{"prompt": "a cat"}\n{"prompt": 3}\n', r"a\.jsonl: row 1 \(from 0\): expected a prompt, found 3"),
        ("a.jsonl", '{"prompt": "a cat"}\n{"prompt": \n', r"a\.jsonl: row 1 \(from 0\): expected a JSON object"),
        ("a.csv", "prompt\na cat, sitting\n", r"a\.csv: row 0 \(from 0\): expected 1 values, found 2"),
        ("a.tsv", "Name\tNote\na\tb\n", r"a\.tsv: expected a column named prompt or text or caption, found name, note"),
        ("a.txt", " \n", r"a\.txt: expected prompts, found none"),
        ("a.parquet", "", r"a\.parquet: expected a file of \.txt"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompts(written(tmp_path / name, text))


def test_no_file_and_no_seeds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such file or folder"):
        read_prompts(tmp_path / "gone")
    with pytest.raises(ValueError, match="seeds: expected different ones, at least one, found \\[1, 1\\]"):
        read_prompts(written(tmp_path / "a.txt", "a"), [1, 1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: expected \.txt files, found none"):
        read_prompts(tmp_path / "empty")
