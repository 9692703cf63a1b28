"""Captions that are grouped alike have the same bits in any process: what a run that is resumed rests on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmdiff.encoder import Encoder, EncoderConfig
from tests.encoder.tiny_models import WORDS, build, tokenizer

CAPTIONS = [" ".join(WORDS[(5 * i + j) % len(WORDS)] for j in range(1 + 7 * i % 12)) for i in range(12)]
GROUPS = {"first": CAPTIONS[:6], "second": CAPTIONS[6:]}
CASES = [("llama", "block"), ("phi", "block"), ("llama", "isolated")]
CODE = """
import sys
from pathlib import Path
from tests.encoder.test_processes import encode

root, cache, result, *runs = sys.argv[1:]
encode(Path(root), Path(cache), Path(result), [run.split(",") for run in runs])
"""


def encode(root: Path, cache: Path, result: Path, runs: list[list[str]]) -> None:
    """Runs with an encoder each, group after group as a run takes its shards; what they give is written to a file."""
    found = {}
    for run in runs:
        for name, word_path in CASES:
            settings = {"token_budget": 40, "noise": "cached", "h": 0.1, "seed": 3}
            config = EncoderConfig(dtype="float32", word_path=word_path, **settings)
            encoder = Encoder.from_pretrained(root / name, config, device="cpu", cache_folder=cache)
            for group in run:
                for i, encoding in enumerate(encoder(GROUPS[group])):
                    found[f"{run} {name} {word_path} {group} {i}"] = encoding.contiguous()
    save_file(found, result)


@pytest.mark.process
def test_the_same_bits_in_any_process_and_when_a_run_is_resumed(tmp_path: Path) -> None:
    """One process encodes the first half and then all, the next the rest and then all.

    The isolated path's table is made here and by the first process; the second loads the first's.
    """
    for name in ("llama", "phi"):
        build(name).save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    encode(tmp_path, tmp_path / "own", tmp_path / "here", [["first", "second"]])
    tables: list[list[tuple[Path, int]]] = []
    for half in GROUPS:
        command = [sys.executable, "-c", CODE, tmp_path, tmp_path / "cache", tmp_path / half, half, "first,second"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        tables.append([(path, path.stat().st_mtime_ns) for path in tmp_path.glob("cache/**/*.safetensors")])
    assert len(tables[0]) == 1
    assert tables[0] == tables[1], "the second process made no table"
    here = load_file(tmp_path / "here")
    assert len(here) == len(CASES) * len(CAPTIONS)
    for half in GROUPS:
        found = load_file(tmp_path / half)
        assert len(found) == len(CASES) * (len(CAPTIONS) + 6)
        for key, encoding in found.items():
            whole = key.replace(f"['{half}']", "['first', 'second']")
            assert torch.equal(encoding, here[whole]), key
