"""Parts of a base that is a single file: weights by diffusers' ``from_single_file``, configurations without a hub.

A part's configuration is the one in the folder of the file's name beside it, or else the family's own with what the
file says of itself. No file holds a tokenizer: its vocabulary lies in one of those folders, or comes from the hub.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from llmdiff.diffusion.families import FAMILIES, SIDES
from llmdiff.model_files.checkpoint_file import Checkpoint
from llmdiff.model_files.model_folders import check_tokenizer, first_line
from llmdiff.model_files.named_files import check_layers, check_named_files, json_object
from llmdiff.model_files.prediction_type import SCHEDULER_CONFIG, prediction_type, schedule_settings
from llmdiff.model_files.single_file_internals import lacking, load_text_encoder

CLIP = "openai/clip-vit-large-patch14"
"""Repository on the hub of the vocabulary that all these families share."""
WORDS, MERGES = "vocab.json", "merges.txt"


def load_model(checkpoint: Checkpoint, part: str, kind: Any, dtype: torch.dtype | None = None) -> tuple[Any, list[str]]:
    """Return a part's model, and the names of the weights that the file lacks; a model that lacks some is unusable.

    Args:
        checkpoint: the file.
        part: name of the part, which has weights, such as "unet".
        kind: the model's class, of diffusers or transformers.
        dtype: dtype of its weights; None is float32.
    """
    dtype = dtype or torch.float32
    tensors = read_tensors(checkpoint, part)
    with config_folder(checkpoint, part) as folder:
        if issubclass(kind, PreTrainedModel):
            model = load_text_encoder(kind, tensors, folder, part, dtype)
            return model, sorted(name for name, tensor in model.state_dict().items() if tensor.is_meta)
        if missing := lacking(kind, tensors, kind.load_config(folder, subfolder=part)):
            return None, missing
        options = {"config": folder, "subfolder": part, "local_files_only": True}
        return kind.from_single_file(tensors, dtype=dtype, **options), []


def read_tensors(checkpoint: Checkpoint, part: str) -> dict[str, Tensor]:
    """Return a part's tensors by their names in the file."""
    with safe_open(checkpoint.path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in checkpoint.tensors(part)}


@contextmanager
def config_folder(checkpoint: Checkpoint, part: str) -> Iterator[str]:
    """Write a part's configuration into a folder, as in a base's folder, for the time of the block."""
    with TemporaryDirectory(prefix="llmdiff-") as root:
        folder = Path(root) / part
        folder.mkdir()
        if part.startswith("tokenizer"):
            write_tokenizer(checkpoint, part, folder)
        else:
            write_config(checkpoint, part, folder)
        yield root


def index_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the ``model_index.json`` in the folder beside the file; empty where there is none."""
    return json_object(checkpoint.folder / "model_index.json")


def write_config(checkpoint: Checkpoint, part: str, folder: Path) -> None:
    """Write a part's configuration: the one beside the file, or the family's."""
    name = SCHEDULER_CONFIG if part == "scheduler" else "config.json"
    own = checkpoint.folder / part / name
    if own.is_file():
        check_layers(own)
        shutil.copyfile(own, folder / name)
        return
    config = {**FAMILIES[checkpoint.family][part]}
    if part == "scheduler":
        config |= schedule_settings(checkpoint)
    if part == "unet" and config["sample_size"] is None:
        config["sample_size"] = SIDES.get(prediction_type(checkpoint) or "")
    (folder / name).write_text(json.dumps(config))


def write_tokenizer(checkpoint: Checkpoint, part: str, folder: Path) -> None:
    """Write a tokenizer: the one beside the file, or CLIP's vocabulary with the family's settings.

    Raises:
        ValueError: the vocabulary lies nowhere, and the hub does not give it.
    """
    (folder / "tokenizer_config.json").write_text(json.dumps(FAMILIES[checkpoint.family][part]))
    own = checkpoint.folder / part
    if own.is_dir():
        check_tokenizer(own, str(own))
        check_named_files(own)
        for file in own.iterdir():
            if file.suffix in (".json", ".txt"):
                shutil.copyfile(file, folder / file.name)
        return
    for name, file in vocabulary(checkpoint).items():
        shutil.copyfile(file, folder / name)


def vocabulary(checkpoint: Checkpoint) -> dict[str, Path]:
    """Return the files of CLIP's vocabulary, fetched once from the hub where they don't lie beside the checkpoint."""
    places = checkpoint.folder / "tokenizer", checkpoint.path.parent / "tokenizer"
    for place in places:
        for names in ((WORDS, MERGES), ("tokenizer.json",)):
            if all((place / name).is_file() for name in names):
                return {name: place / name for name in names}
    from huggingface_hub import hf_hub_download

    try:
        return {name: Path(hf_hub_download(CLIP, name)) for name in (WORDS, MERGES)}
    except (OSError, ValueError) as error:  # huggingface_hub's errors are subclasses of these
        raise ValueError(
            f"a single file holds no tokenizer: expected {WORDS} and {MERGES} of {CLIP} in {places[1]}, "
            f"or from the hub: {first_line(error)}"
        ) from error
