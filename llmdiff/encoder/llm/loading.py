"""Load an LLM and its tokenizer: cheap checks first, safetensors or GGUF, no code of the model's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, __version__
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import is_flash_attn_2_available

from llmdiff.compilation import check_compiler
from llmdiff.devices import device
from llmdiff.encoder.config import Attention, EncoderConfig
from llmdiff.encoder.fit import check_depth, check_tokenizer
from llmdiff.encoder.llm.decoder_llm import check_blocks, check_decoder_only
from llmdiff.encoder.llm.quantization import METHODS, quantization_of
from llmdiff.encoder.template import resolve_template
from llmdiff.extras import require_for
from llmdiff.model_files.gguf_files import check_gguf
from llmdiff.model_files.model_folders import check_llm, first_line, gguf_file
from llmdiff.model_files.named_files import json_object

logger = logging.getLogger(__name__)
HEADS = ("lm_head.", "embed_out.")  # not used: no logits are computed


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how a loaded LLM runs: nothing that decides an encoding's numbers but for rounding.

    Raises:
        ValueError: both a device and a device map, both a device map and `torch_compile`, or an attention or compiler
            that is not to be had here.
    """

    device: str | torch.device | None = None
    """Device of the whole LLM; None is a GPU where there is one."""
    device_map: str | dict[str, Any] | None = None
    """Devices of parts of the LLM, as transformers takes them; then `device` is None."""
    attention: Attention | None = None
    """How attention is computed; None is transformers' own choice."""
    torch_compile: bool = False
    """Whether its blocks are compiled, see `llmdiff.encoder.llm.compiled`."""

    def __post_init__(self) -> None:
        if self.torch_compile and self.device_map is not None:
            raise ValueError(f"expected torch_compile or device_map, found both: {self.device_map!r}")
        if self.torch_compile:
            check_compiler()
        if self.device is not None and self.device_map is not None:
            raise ValueError(f"expected device or device_map, found both: {self.device} and {self.device_map!r}")
        if self.attention == "flash_attention_2" and not is_flash_attn_2_available():
            raise ValueError(
                "attention is 'flash_attention_2', and no CUDA device with the package flash-attn is here; expected "
                "sdpa or eager"
            )

    @property
    def one_device(self) -> torch.device:
        """Device of an LLM that is not spread over several."""
        return torch.device(self.device or device())


def check_loading(name_or_folder: str | Path, settings: EncoderConfig) -> None:
    """Refuse what can be refused before anything of the LLM is read; errors as `load_pretrained`."""
    check_llm(name_or_folder)
    gguf = "gguf_file" in _source(name_or_folder, None)[1]
    if settings.quantization != "none":
        _check_quantizable(str(name_or_folder), settings, "a GGUF file" if gguf else None)


def load_pretrained(
    name_or_folder: str | Path, settings: EncoderConfig, revision: str | None, placement: Placement
) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a folder, a GGUF file or a hub name, the tokenizer with a pad token.

    Raises:
        ValueError: no tokenizer, no pad token and no EOS to be one, no or not all safetensors or GGUF weights, not
            decoder-only, no fit for the settings (fewer positions than `max_tokens`, no such layer, no chat template),
            code of the model's own, or weights that are quantised already and can't be again.
        FileNotFoundError: a path that does not exist.
        ModuleNotFoundError: a package for GGUF or quantised weights is not installed.
    """
    source, dtype = str(name_or_folder), getattr(torch, settings.dtype or "bfloat16")
    config, tokenizer = load_tokenizer(name_or_folder, revision, settings)
    place, arguments = _source(name_or_folder, revision)
    arguments.update(config=config, dtype=dtype, use_safetensors=True, output_loading_info=True)
    arguments.update(_weights(source, config, settings, dtype, "gguf_file" in arguments))
    if placement.attention is not None:
        arguments["attn_implementation"] = placement.attention
    quantised = "quantization_config" in arguments or quantization_of(config) is not None
    if placement.device_map is not None:
        arguments["device_map"] = placement.device_map
    elif quantised and "gguf_file" not in arguments:  # quantised on the device where they stay
        arguments["device_map"] = {"": placement.one_device}
    model, report = _read(source, "weights", lambda: AutoModelForCausalLM.from_pretrained(place, **arguments))
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(HEADS)):
        raise ValueError(f"LLM {source}: lacks {len(missing)} of the model's weights: {', '.join(missing[:3])}")
    return model if "device_map" in arguments else model.to(placement.one_device), tokenizer


def load_tokenizer(name_or_folder: str | Path, revision: str | None, settings: EncoderConfig) -> tuple[Any, Any]:
    """Return (configuration, tokenizer with a pad token) of a folder, a file or a name; errors as `load_pretrained`."""
    source = str(name_or_folder)
    check_llm(name_or_folder)
    place, arguments = _source(name_or_folder, revision)
    config = _read(source, "config", lambda: AutoConfig.from_pretrained(place, **arguments))
    _check_causal(source, config)
    of_text = config.get_text_config(decoder=True)
    with naming(source):
        check_blocks(of_text)
        check_depth(of_text, of_text.num_hidden_layers, settings)
    tokenizer = _read(source, "tokenizer", lambda: AutoTokenizer.from_pretrained(place, **arguments))
    _set_padding(source, tokenizer)
    with naming(source):
        check_tokenizer(tokenizer, resolve_template(tokenizer, settings))
    return config, tokenizer


def _source(name_or_folder: str | Path, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Return the arguments of ``from_pretrained`` that say where an LLM lies."""
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    file = gguf_file(name_or_folder)
    if file is None:
        return str(name_or_folder), arguments
    require_for("gguf", f"LLM {name_or_folder}: a GGUF file")
    check_gguf(file)
    return str(file.parent), {**arguments, "gguf_file": file.name}


def _weights(source: str, config: Any, settings: EncoderConfig, dtype: torch.dtype, gguf: bool) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that say how weights are kept: those of a GGUF file are unpacked."""
    if settings.quantization == "none":
        return {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}
    _check_quantizable(source, settings, "a GGUF file" if gguf else quantization_of(config))
    return {"quantization_config": METHODS[settings.quantization].settings(dtype)}


def _check_quantizable(source: str, settings: EncoderConfig, found: str | None) -> None:
    """Raise ValueError for weights that would be quantised twice, ModuleNotFoundError without what quantises them."""
    what = f"LLM {source}: quantization {settings.quantization!r}"
    if found is not None:
        raise ValueError(f"{what}: found weights that are quantised already ({found}); expected 'none' for these")
    require_for(METHODS[settings.quantization].package, what)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the LLM's name before the text of a ValueError that the block raises."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"LLM {source}: {error}") from None


def _check_causal(source: str, config: Any) -> None:
    """Raise ValueError unless transformers has a causal language model for the configuration."""
    with naming(source):
        check_decoder_only(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        text = config.get_text_config(decoder=True)
        expected = "expected one" if text is config else f"expected its language model ({text.model_type}) by itself"
        raise ValueError(f"LLM {source}: model type {config.model_type!r} is no decoder-only LLM; {expected}")


def _set_padding(source: str, tokenizer: Any) -> None:
    """Make EOS the pad token of a tokenizer that has none; ValueError where it has no EOS either."""
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"LLM {source}: its tokenizer has no pad token and no EOS token to be one; set tokenizer.pad_token to one "
            "of its tokens and save it: padding never reaches an encoding"
        )
    tokenizer.pad_token = tokenizer.eos_token
    logger.info("LLM %s: its tokenizer has no pad token; EOS (%s) is the padding", source, tokenizer.eos_token)


def _read(source: str, what: str, load: Any) -> Any:
    """Return what ``load`` returns; raise its failures in one line that names the LLM."""
    try:
        return load()
    except Exception as error:  # transformers raises errors of many classes for bad files; all mean the same here
        if "trust_remote_code" in str(error):
            reason = "it needs code from its own repository, which is not run; expected a model that transformers knows"
            raise ValueError(f"LLM {source}: {reason}") from error
        where = "" if Path(source).exists() else "no folder of that name here; from the hub: "
        raise ValueError(f"LLM {source}: {where}cannot read its {what}: {first_line(error)}{_newer(source)}") from error


def _newer(source: str) -> str:
    """Return the words that a newer transformers than this one wrote a folder's configuration, if one did."""
    written = json_object(Path(source) / "config.json").get("transformers_version")
    newer = isinstance(written, str) and _numbers(written) > _numbers(__version__)
    return f" (of transformers {written:.20}, here is {__version__})" if newer else ""


def _numbers(version: str) -> list[int]:
    """Return the first two numbers of a version: 5 and 23 for 5.23.0."""
    return [int(number) for number in re.findall(r"\d{1,9}", version)[:2]]
