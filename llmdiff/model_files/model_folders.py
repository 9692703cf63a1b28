"""Check an LLM's folder before anything heavy is imported or loaded; hub names are left to the hub."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path

from llmdiff.model_files.named_files import PEFT_CONFIG, PEFT_WEIGHTS, check_named_files, json_object
from llmdiff.model_files.safetensors_files import check_safetensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
TOKENIZER_SETTINGS = ("tokenizer.json", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
GGUF, GGUF_MAGIC = ".gguf", b"GGUF"


def check_llm(name_or_folder: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError or ValueError where a path lacks configuration, tokenizer or whole weights, or GGUF."""
    if (file := gguf_file(name_or_folder)) is not None:
        _check_gguf(file)
        return
    folder = Path(name_or_folder)
    if not folder.is_dir():
        check_hub_name(name_or_folder, "LLM folder")
        return
    what = f"LLM folder {folder}"
    _check_whole(folder, what)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{what}: no config.json; expected a folder that save_pretrained wrote")
    check_named_files(folder)
    check_tokenizer(folder, what)
    check_weights(folder, what)
    _check_weights_name(folder, what)


def gguf_file(name_or_folder: str | os.PathLike[str]) -> Path | None:
    """Return the GGUF file that a path is, or that lies in a folder without safetensors; None for any other LLM.

    Raises:
        ValueError: several of them lie in the folder.
    """
    path = Path(name_or_folder)
    if path.suffix == GGUF and path.is_file():
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    files = sorted(path.glob(f"*{GGUF}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"LLM folder {path}: expected one {GGUF} file, found {names}: name the file")
    return files[0] if files else None


def _check_whole(folder: Path, what: str) -> None:
    """Raise ValueError for an adapter in place of an LLM, or for one beside it that would not be read.

    transformers passes over a PEFT adapter where that package is missing: the LLM would be another one.
    """
    if not (folder / PEFT_CONFIG).is_file():
        return
    weights = {path.name for path in folder.glob("*.safetensors")} - {PEFT_WEIGHTS}
    if not (folder / "config.json").is_file() or not weights:
        expected = "expected the whole LLM; a LoRA is merged into its base first"
        raise ValueError(f"{what}: found an adapter ({PEFT_CONFIG}), {expected}")
    if find_spec("peft") is None:
        expected = "expected the package peft, which reads it: install it, or remove the adapter"
        raise ValueError(f"{what}: found an adapter beside the weights ({PEFT_CONFIG}), {expected}")


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 over a folder's safetensors files; empty where it has none."""
    files = sorted(folder.glob("*.safetensors"))
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest() if files else ""


def is_same_path(one: str | None, other: str | None) -> bool:
    """Return whether two names, relative or absolute, lead to the same file or folder."""
    if not one or not other:
        return False
    return Path(one).exists() and Path(one).resolve() == Path(other).resolve()


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, and the next after a colon; without a text, the error's class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, KeyError):  # its text is only the key
        lines[0] = f"{type(error).__name__}: {lines[0]}"
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def check_tokenizer(folder: Path, what: str) -> None:
    """Raise ValueError where there is no tokenizer, or none that says which tokens it adds to a text's own."""
    if (folder / "tokenizer.model").is_file() and not any((folder / name).is_file() for name in TOKENIZER_SETTINGS):
        expected = " or ".join(TOKENIZER_SETTINGS)
        raise ValueError(f"{what}: expected {expected} beside tokenizer.model, to say how it begins and ends a text")
    if not (folder / "tokenizer.json").is_file():
        _check_parts(folder, what)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{what}: no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}")


def _check_parts(folder: Path, what: str) -> None:
    """Raise ValueError where the files of a tokenizer without ``tokenizer.json`` leave out what decides its ids."""
    if (folder / "tokenizer.model").is_file():
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_bytes())
        except ValueError as error:
            raise ValueError(f"{what}: tokenizer_config.json: expected JSON: {error}") from None
        lacking = [name for name in ("tokenizer_class", "add_bos_token") if name not in settings]
        if lacking:
            expected = f"expected {' and '.join(lacking)}, for there is tokenizer.model and no tokenizer.json"
            raise ValueError(f"{what}: tokenizer_config.json: {expected}")
    elif (folder / "vocab.json").is_file() and not (folder / "merges.txt").is_file():
        raise ValueError(f"{what}: expected tokenizer.json, or merges.txt beside vocab.json, found vocab.json alone")


def check_weights(folder: Path, what: str) -> None:
    """Raise ValueError where a folder has no safetensors, or one that is cut short."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{what}: no *.safetensors weights (other formats are not loaded)")
    for file in files:
        check_safetensors(file)


def _check_weights_name(folder: Path, what: str) -> None:
    """Raise ValueError where transformers does not look for the weights' names, or they are parts without an index."""
    if json_object(folder / "config.json").get("transformers_weights"):
        return
    if not any((folder / name).is_file() for name in WEIGHTS):
        found = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        raise ValueError(f"{what}: expected {WEIGHTS[0]}, or {WEIGHTS[1]} that names its parts; found {found}")


def _check_gguf(file: Path) -> None:
    with file.open("rb") as data:
        begins = data.read(len(GGUF_MAGIC))
    if begins != GGUF_MAGIC:
        raise ValueError(f"{file}: expected a GGUF file, found {file.stat().st_size} bytes that don't begin as one")


def check_hub_name(name: str | os.PathLike[str], what: str) -> None:
    """Raise FileNotFoundError for what can only be meant as a path."""
    text = os.fspath(name)
    if Path(text).is_file():
        raise ValueError(f"{what} {text}: expected a folder or a .gguf file, found a file")
    if not isinstance(name, str) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(f"{what} {text}: no such folder")
