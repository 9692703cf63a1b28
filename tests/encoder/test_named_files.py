"""Files that a model's configuration names: in its own folder, of safetensors, and there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from llmdiff import LLMDiffPipeline
from llmdiff.evaluation.embed import load_embedder
from llmdiff.model_files.base_folders import check_base
from llmdiff.model_files.model_folders import check_llm
from llmdiff.model_files.named_files import check_named_files
from llmdiff.model_files.safetensors_files import tensor_shapes
from llmdiff.sampling import Sampling
from llmdiff.shapes import DIFFUSION, LLAMA
from pipelines.runtime.eval_models import _load
from tests.encoder import tiny_models


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "llm"
    tiny_models.build("llama").save_pretrained(folder, max_shard_size="50kB")
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "llm")


INDEX = "model.safetensors.index.json"


def change(file: Path, **settings: Any) -> None:
    about = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**about, **settings}))


def test_shards_are_loaded(folder: Path) -> None:
    assert len(set(json.loads((folder / INDEX).read_text())["weight_map"].values())) > 1
    check_llm(folder)
    AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.bin", "expected the name of a .safetensors file in its own folder, found 'x.bin'"),
        ("../x.safetensors", "in its own folder, found '../x.safetensors'"),
        ("/x.safetensors", "in its own folder, found '/x.safetensors'"),
        (3, "in its own folder, found 3"),
        ("gone.safetensors", "expected gone.safetensors beside it, found no such file"),
    ],
)
@pytest.mark.parametrize("index", [INDEX, "model.safetensors.index.fp16.json"])
def test_an_index_that_names_other_files_is_refused(folder: Path, index: str, name: object, message: str) -> None:
    for place in (folder, folder.parent):
        (place / "x.bin").touch()
        save_file({}, place / "x.safetensors")
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change(folder / index, weight_map={**weight_map, "odd": name})
    with pytest.raises(ValueError, match=f"{index}: .*{message}"):
        check_llm(folder)


def test_an_index_beside_all_weights_in_one_file_is_a_leftover(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    change(folder / INDEX, weight_map={"a": "gone.safetensors"})
    check_llm(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(ValueError, match=f"{INDEX}: expected the files of weights by tensor, found "):
        check_llm(folder)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "found 'adapter_model.bin'"),
        ("config.json", {"transformers_weights": "a/model.safetensors"}, "found 'a/model.safetensors'"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.0.json"]}, "found '../tokenizer.4.0"),
        ("adapter_config.json", {"peft_type": "LORA"}, "expected adapter_model.safetensors beside it"),
    ],
)
def test_other_names_are_looked_at_too(folder: Path, file: str, settings: dict[str, Any], message: str) -> None:
    (folder / "adapter_model.bin").touch()
    change(folder / file, **settings)
    with pytest.raises(ValueError, match=message):
        check_llm(folder)


def test_an_adapter_is_no_llm_and_none_beside_one_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="someone/llm")
    save_file({}, folder / "adapter_model.safetensors")
    check_llm(folder)
    monkeypatch.setattr(
        "llmdiff.model_files.model_folders.find_spec", lambda name: None
    )  # as if PEFT were not installed
    with pytest.raises(ValueError, match="an adapter beside the weights .* expected the package peft"):
        check_llm(folder)
    for path in (*folder.glob("model*"), folder / "config.json"):
        path.unlink()
        with pytest.raises(ValueError, match=rf"LLM folder {folder}: found an adapter|beside the weights|no such file"):
            check_llm(folder)
    with pytest.raises(
        ValueError, match=r"found an adapter \(adapter_config.json\), expected the whole LLM; a LoRA is"
    ):
        check_llm(folder)


def test_a_part_of_a_base_likewise(tmp_path: Path) -> None:
    base = shutil.copytree(DIFFUSION, tmp_path / "base")
    index = "diffusion_pytorch_model.safetensors.index.json"
    change(base / "unet" / index, weight_map={"conv_in.weight": "x.bin"})
    with pytest.raises(ValueError, match=f"unet/{index}: expected the name of a .safetensors file"):
        check_base(base, "unet")


def test_parts_that_no_adapter_reads_are_looked_at_too(tmp_path: Path) -> None:
    base = shutil.copytree(DIFFUSION, tmp_path / "base")
    (base / "safety_checker").mkdir()
    change(base / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    change(base / "safety_checker" / INDEX, weight_map={"a": "x.bin"})
    with pytest.raises(ValueError, match=f"safety_checker/{INDEX}: expected the name of a .safetensors file"):
        LLMDiffPipeline.from_pretrained(base)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers_per_block": 10**9},
        {"transformer_layers_per_block": [1, [10**9]]},
        {"down_block_types": ["DownBlock2D"] * 2000},
        {"text_config": {"num_hidden_layers": 1e9}},
    ],
    ids=str,
)
def test_no_model_has_millions_of_layers(tmp_path: Path, settings: dict[str, Any]) -> None:
    change(tmp_path / "config.json", **settings)
    with pytest.raises(ValueError, match=r"config\.json: \w+: expected at most 1000 layers, found [12]000"):
        check_named_files(tmp_path)


@pytest.mark.parametrize("name", ["other.safetensors", "model.safetensors.index.x.json", "chat_template.jinja"])
def test_a_pipe_is_waited_for_by_nobody(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=rf"^{folder / name}: expected a file, found a pipe or a device"):
        check_llm(folder)


def test_nor_is_one_in_place_of_a_file_of_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="expected a safetensors file, found a folder or a device"):
        tensor_shapes(tmp_path / "a.safetensors")


def test_so_are_models_of_an_evaluation(folder: Path) -> None:
    change(folder / INDEX, weight_map={"a": "x.bin"})
    change(folder.parent / "model_index.json", llm=["transformers", "LlamaForCausalLM"])
    with pytest.raises(ValueError, match=f"metric model {folder}: cannot be loaded: .*{INDEX}: expected the name"):
        load_embedder(str(folder))
    with pytest.raises(ValueError, match=f"baseline {folder.parent}: cannot be loaded: .*{INDEX}: expected the name"):
        _load(str(folder.parent), Sampling())


def header(text: str, length: int | None = None, body: int = 0) -> bytes:
    data = text.encode()
    return (len(data) if length is None else length).to_bytes(8, "little") + data + bytes(body)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', body=3),
        header('{"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}', body=4),
        header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', body=4),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 4]}}', body=4),
        header('{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', body=4),
        header("{}", length=2**63),
        header("[]"),
        header('{"a": 1}'),
        header('{"a": {"dtype": "F32", "shape": [1]}}'),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}', body=4),
        header("[" * 100_000),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', body=5),
    ],
)
def test_what_is_no_safetensors_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: expected .*found {len(content)}"):
        tensor_shapes(path)


TENSORS = {
    "overlapping": (
        '"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}',
        "[2, 6]",
        "begin at byte 4, found bytes 2 to 6",
    ),
    "a gap": (
        '"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}',
        "[4, 8]",
        "begin at byte 2, found bytes 4 to 8",
    ),
    "backwards": ('"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}', "[4, 0]", "found bytes 4 to 0"),
    "too large": (
        '"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}',
        "[4, 9]",
        "expected 4 bytes, found 5 bytes",
    ),
    "enormous": (
        '"a": {"dtype": "F64", "shape": [4611686018427387904, 4], "data_offsets": [0, 4]}',
        "[4, 8]",
        "found 4 bytes",
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_lie_where_none_can_are_refused(tmp_path: Path, what: str) -> None:
    first, offsets, message = TENSORS[what]
    end = max(json.loads(offsets)[1], 4)
    path = tmp_path / "a.safetensors"
    path.write_bytes(header(f'{{{first}, "b": {{"dtype": "U8", "shape": [4], "data_offsets": {offsets}}}}}', body=end))
    with pytest.raises(ValueError, match=rf"^{path}: tensor '[ab]': .*{message}"):
        tensor_shapes(path)


def test_shapes_are_read_without_the_tensors() -> None:
    assert tensor_shapes(LLAMA / "model.safetensors")["model.norm.weight"] == (160,)
