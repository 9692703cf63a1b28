"""Check the files that a model's configurations name: safetensors in the model's own folder, and no others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SUFFIX, INDEX = ".safetensors", ".safetensors.index"
NAMES = {  # by configuration: the setting that names files, and the allowed kinds of files
    "config.json": ("transformers_weights", (SUFFIX, f"{INDEX}.json")),
    "tokenizer_config.json": ("fast_tokenizer_files", (".json",)),
}
LAYERS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"),
    *("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block", "depths"),
    *("down_block_types", "up_block_types"),
)
"""Settings for the number of a model's layers; all layers are made before its weights are read."""
MOST_LAYERS = 1000
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_pipeline_files(name_or_folder: str | os.PathLike[str]) -> None:
    """Raise ValueError as `check_named_files` for each part of a pipeline's folder; a hub name passes."""
    folder = Path(name_or_folder)
    for part, about in json_object(folder / "model_index.json").items():
        if isinstance(about, list):  # library and class
            check_named_files(folder / part)


def check_named_files(name_or_folder: str | os.PathLike[str]) -> None:
    """Raise ValueError where a model's folder has the libraries load a pickle, or a file from elsewhere.

    Checked are the index of weights, the settings in `NAMES`, and the weights of a PEFT adapter. Refused are also a
    configuration of more layers than any model has, and a pipe, which would be waited for. A hub name passes.
    """
    folder = Path(name_or_folder)
    for path in sorted(folder.glob("*")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: expected a file, found a pipe or a device")
    check_layers(folder / "config.json")
    for index in sorted(folder.glob(f"*{INDEX}*.json")):
        check_index(index)
    for file, (setting, kinds) in NAMES.items():
        found = json_object(folder / file).get(setting) or []
        for name in found if isinstance(found, list) else [found]:
            check_name(folder / file, name, kinds)
    if (folder / PEFT_CONFIG).is_file() and not (folder / PEFT_WEIGHTS).is_file():
        raise ValueError(f"{folder / PEFT_CONFIG}: expected {PEFT_WEIGHTS} beside it, found no such file")


def check_layers(file: Path) -> None:
    """Raise ValueError where a configuration, or one within it, asks for more layers than any model has."""
    config = json_object(file)
    for about in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name in LAYERS:
            if (found := _most(about.get(name))) > MOST_LAYERS:
                raise ValueError(f"{file}: {name}: expected at most {MOST_LAYERS} layers, found {found}")


def _most(value: Any, deep: int = 3) -> int:
    """Return the largest number in a setting, or how long its lists are, whichever is more; 0 for other kinds."""
    if isinstance(value, list) and deep:
        return max(len(value), *(_most(inner, deep - 1) for inner in value[: MOST_LAYERS + 1]), 0)
    return int(value) if isinstance(value, (int, float)) and abs(value) < float("inf") else 0


def check_index(file: Path) -> None:
    """Raise ValueError where an index names anything but safetensors files that lie beside it.

    Beside a file of all weights an index is a leftover, whose files may be gone.
    """
    try:
        names = set(json.loads(file.read_bytes())["weight_map"].values())
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: expected the files of weights by tensor, found {error!r:.80}") from None
    start, _, end = file.name.partition(INDEX)
    leftover = (file.parent / f"{start}{end.removesuffix('.json')}{SUFFIX}").is_file()
    for name in sorted(names, key=str):
        check_name(file, name, (SUFFIX,))
        if not leftover and not (file.parent / name).is_file():
            raise ValueError(f"{file}: expected {name} beside it, found no such file")


def check_name(file: Path, name: Any, kinds: tuple[str, ...]) -> None:
    """Raise ValueError where a configuration file names anything but a file beside it of one of the kinds."""
    if not (isinstance(name, str) and "/" not in name and "\\" not in name and name.endswith(kinds)):
        expected = " or ".join(kinds)
        raise ValueError(f"{file}: expected the name of a {expected} file in its own folder, found {name!r:.80}")


def json_object(file: Path) -> dict[str, Any]:
    """Return a configuration; empty where it is missing or no JSON object, which is left to the libraries."""
    try:
        found = json.loads(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
