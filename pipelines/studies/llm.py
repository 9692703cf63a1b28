"""The LLM that a study is about: the embedded one, or any other as it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmdiff.devices import device
from llmdiff.encoder import EncoderConfig
from llmdiff.encoder.config import DType
from llmdiff.encoder.llm.loading import load_tokenizer
from llmdiff.shapes import LLAMA
from llmdiff.shapes.captions import PROMPT
from llmdiff.studies.readings import StudyReading
from pipelines.studies import smollm2


@dataclass(frozen=True, kw_only=True)
class StudyLLM:
    """An LLM and how it reads captions where a variant says nothing else."""

    source: str
    """Folder, GGUF file, or name on the hub."""
    name: str
    """Name for people, and of the folder of what is found on it."""
    blocks: int
    """Number of blocks T."""
    width: int
    """Width of a hidden state."""
    template: str
    dtype: DType | None = None
    """Dtype that it runs in; None is the encoder's default."""

    @property
    def embedded(self) -> bool:
        """Whether this is the LLM that the package holds, asked as it was trained."""
        return self == EMBEDDED

    def reading(self, **settings: Any) -> StudyReading:
        """Return a reading of it, by settings of `EncoderConfig`."""
        common = {"template": self.template} | ({} if self.dtype is None else {"dtype": self.dtype})
        return StudyReading(llm=self.source, settings={**common, **settings})


EMBEDDED = StudyLLM(source=str(LLAMA), name="the embedded LLM", blocks=5, width=160, template=PROMPT)


def read_llm(source: str, template: str | None = None) -> StudyLLM:
    """Return what studies need to know of an LLM; nothing but its configuration and its tokenizer is loaded.

    The template is the bare caption where None is given: a template that asks means nothing to an LLM that was not
    trained with it. On a CPU it is read in float32, which is faster there than bfloat16.

    Raises:
        ValueError: no LLM that the encoder can take, or no such template.
        FileNotFoundError: there is no such folder.
    """
    settings = EncoderConfig(template="{caption}" if template is None else template)
    config, _ = load_tokenizer(source, None, settings)
    of_text = config.get_text_config(decoder=True)
    return StudyLLM(
        source=str(Path(source).resolve()) if Path(source).exists() else source,
        name=name_of(source),
        blocks=of_text.num_hidden_layers,
        width=of_text.hidden_size,
        template=settings.template,
        dtype="float32" if device() == "cpu" else None,
    )


def name_of(source: str) -> str:
    """Return an LLM's name, fit for a file's: the one in its folder's configuration, or else the folder's own."""
    path = Path(source).resolve()
    name = path.name
    if path.is_file():  # a GGUF file
        name = path.stem
    elif path == smollm2.location().resolve():
        name = smollm2.NAME
    elif (path / "config.json").is_file():
        name = Path(json.loads((path / "config.json").read_text()).get("_name_or_path") or name).name
    return re.sub(r"[^\w.-]+", "-", name)


def some_llm() -> str:
    """Return the folder of the real LLM that this machine has; ValueError where it has none."""
    folder = smollm2.location()
    if not smollm2.is_there(folder):
        raise ValueError(
            f"no LLM: expected --llm with a folder or a name on the hub, or {smollm2.NAME} in {folder}: `make smollm2` "
            f"fetches it ({smollm2.VARIABLE} names another folder)"
        )
    return str(folder)
