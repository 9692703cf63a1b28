"""LLMs from GGUF files: the same encodings as of the same weights in a folder, and what is refused."""

from __future__ import annotations

import functools
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.llm.loading import load_tokenizer
from llmdiff.extras import missing_extra
from llmdiff.model_files.gguf_files import check_gguf
from llmdiff.model_files.model_folders import check_llm, gguf_file
from pipelines.cli.main import error_line
from tests.encoder.first_blocks import cut_folder, cut_gguf
from tests.encoder.tiny_models import build, llama, scramble

CAPTIONS = ["a red circle next to the blue square", "a small green triangle"]
FLOAT32 = EncoderConfig(dtype="float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    from tests.encoder.tiny_gguf import save_gguf

    torch.manual_seed(0)
    model = scramble(llama(hidden_size=64, intermediate_size=96, head_dim=16))
    return save_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


@pytest.fixture(scope="module")
def unpacked(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file's LLM as a folder: its weights as transformers reads them, in a model made anew, its tokenizer."""
    config, tokenizer = load_tokenizer(file, None, EncoderConfig(max_tokens=64))
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("unpacked")
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_encodes_as_its_weights_in_a_folder_do(file: Path, unpacked: Path, dtype: str) -> None:
    config = EncoderConfig(dtype=dtype)
    of_file, of_folder = Encoder.from_pretrained(file, config), Encoder.from_pretrained(unpacked, config)
    assert of_file.describe() == of_folder.describe()
    assert all(map(torch.equal, of_file(CAPTIONS), of_folder(CAPTIONS)))


def test_a_file_is_the_model_that_was_written(file: Path) -> None:
    """Eight bits a weight: a mistaken order of rows would show at once."""
    torch.manual_seed(0)
    model = scramble(llama(hidden_size=64, intermediate_size=96, head_dim=16))
    encoder = Encoder.from_pretrained(file, FLOAT32)
    whole = Encoder(model, encoder.tokenizer, FLOAT32)
    for one, other in zip(encoder(CAPTIONS), whole(CAPTIONS), strict=True):
        assert 0 < (one - other).norm() / other.norm() < 0.03


def test_a_folder_of_one_file_is_that_file(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(file.read_bytes())
    assert gguf_file(tmp_path) == gguf_file(copy) == copy
    one, other = Encoder.from_pretrained(tmp_path, FLOAT32), Encoder.from_pretrained(file, FLOAT32)
    assert one.describe() == other.describe(), "the file's name is no part of what it computes"
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"expected one .gguf file, found model.gguf, other.gguf: name the file"):
        check_llm(tmp_path)
    build("llama").save_pretrained(tmp_path)
    assert gguf_file(tmp_path) is None, "safetensors come first"


def test_a_changed_weight_changes_the_description(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-40] ^= 1  # of the last tensor, a block's norm
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data)
    one, other = (Encoder.from_pretrained(each, FLOAT32).describe() for each in (file, changed))
    assert one["llm"]["content"] != other["llm"]["content"]
    assert one["tokenizer"] == other["tokenizer"]


def test_no_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"model.gguf: expected a GGUF file, found 43 bytes that don't begin as one"):
        Encoder.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match="no such"):
        Encoder.from_pretrained(tmp_path / "none.gguf")


def test_a_file_cut_short(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for keep in (20, 2000, len(data) - 1000):
        path = tmp_path / "cut.gguf"
        path.write_bytes(data[:keep])
        expected = "cannot read its \\w+: .+" if keep > 2000 else f"expected .* {keep} bytes that end in its header"
        with pytest.raises(ValueError, match=rf"cut.gguf: {expected}"):
            Encoder.from_pretrained(path, FLOAT32)


def field(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


LLAMA, BLOCKS = field("general.architecture", 8, text("llama")), "llama.block_count"
HOSTILE = {
    "a vocabulary of billions": (
        [LLAMA, field("a", 9, array(0, 2**60))],
        "at most 4000000 values, found 1152921504606",
    ),
    "arrays in arrays": ([LLAMA, field("a", 9, array(9, 1) * 1000)], "found kind 9"),
    "an odd kind": ([LLAMA, field("a", 77, b"")], "found kind 77"),
    "no alignment": (
        [LLAMA, field("general.alignment", 4, bytes(4))],
        "general.alignment: expected a power of 2, found 0",
    ),
    "an alignment in words": ([LLAMA, field("general.alignment", 8, text("x"))], "expected a power of 2, found 'x'"),
    "a text without end": ([LLAMA, field("a", 8, struct.pack("<Q", 2**62))], "bytes that end in its header"),
    "no blocks": ([LLAMA], "llama.block_count: expected 1 to 200 blocks, found None"),
    "blocks in a list": ([LLAMA, field(BLOCKS, 9, array(4, 0))], "expected 1 to 200 blocks, found None"),
    "thousands of blocks": ([LLAMA, field(BLOCKS, 4, struct.pack("<I", 9999))], "expected 1 to 200 blocks, found 9999"),
    "a part of a file": (
        [LLAMA, field("split.count", 2, struct.pack("<H", 3))],
        "expected the whole of a GGUF file, found one of 3 parts: llama-gguf-split --merge joins them",
    ),
    "blocks without tensors": (
        [LLAMA, field(BLOCKS, 4, struct.pack("<I", 9))],
        "tensors of 9 blocks, found none of block 0",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_before_a_library_reads_it(tmp_path: Path, what: str) -> None:
    fields, message = HOSTILE[what]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + b"".join(fields))
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
        check_gguf(path)


def test_a_header_that_is_no_text_or_counts_tensors_that_are_not_there(file: Path, tmp_path: Path) -> None:
    data, path = file.read_bytes(), tmp_path / "changed.gguf"
    for at, new in ((8, struct.pack("<Q", 2**63)), (32, b"\xff"), (4, struct.pack("<I", 99))):
        path.write_bytes(data[:at] + new + data[at + len(new) :])
        with pytest.raises(ValueError, match=rf"^{path}: expected a GGUF file"):
            check_gguf(path)
    check_gguf(file)


def test_more_tokens_than_positions(file: Path) -> None:
    with pytest.raises(ValueError, match="max_tokens is 257; expected at most 256, the positions"):
        Encoder.from_pretrained(file, EncoderConfig(max_tokens=257))


def test_a_file_is_not_quantised_again(file: Path) -> None:
    with pytest.raises(ValueError, match=r"'8bit': found weights that are quantised already \(a GGUF file\)"):
        Encoder.from_pretrained(file, EncoderConfig(quantization="8bit"))


def test_the_extra_is_named_where_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"a GGUF file needs gguf: pip install 'llmdiff\[gguf\]'") as error:
        Encoder.from_pretrained(path)
    assert missing_extra(error.value) == error_line(error.value) == "this needs gguf: pip install 'llmdiff[gguf]'"


def test_a_real_file(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of the file that the folder was made of; the folder's weights went through a model made anew."""
    gguf = pytest.importorskip("gguf")
    if (file := gguf_file(smollm2 / "gguf")) is None:
        pytest.skip(f"no GGUF file in {smollm2 / 'gguf'}")
    file = cut_gguf(file, 2, tmp_path / "two-blocks.gguf")
    folder = cut_folder(smollm2, 2, tmp_path / "two-blocks")
    # Configuration, tokenizer and weights are each read from it: a second for its vocabulary each time, and as much
    # again for taking each word's bytes out of a mapped file.
    monkeypatch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    monkeypatch.setattr(np, "memmap", lambda path, dtype=np.uint8, **_: np.fromfile(path, dtype))
    of_file, of_folder = Encoder.from_pretrained(file, FLOAT32), Encoder.from_pretrained(folder, FLOAT32)
    assert of_file.describe() == of_folder.describe()
    assert json.dumps(of_file.describe())
    assert all(map(torch.equal, of_file(CAPTIONS), of_folder(CAPTIONS)))
