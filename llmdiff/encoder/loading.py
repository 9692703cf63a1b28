"""Loading an LLM and its tokenizer: cheap checks first, safetensors only, no code of the model's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.llm import check_decoder_only, check_positions
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.template import resolve_template
from llmdiff.model_folders import check_llm, first_line

logger = logging.getLogger(__name__)
HEADS = ("lm_head.", "embed_out.")  # not used: no logits are computed


def load_pretrained(
    name_or_folder: str | Path, dtype: torch.dtype, revision: str | None, settings: EncoderConfig
) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a folder or a hub name, the tokenizer with a pad token.

    Raises:
        ValueError: no tokenizer, no pad token and no EOS to be one, no or not all safetensors weights, not
            decoder-only, no fit for the settings (fewer positions than `max_tokens`, no such layer, no chat template),
            or code of the model's own.
        FileNotFoundError: a path that does not exist.
    """
    source = str(name_or_folder)
    config, tokenizer = load_tokenizer(name_or_folder, revision, settings)
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    arguments.update(config=config, dtype=dtype, use_safetensors=True, output_loading_info=True)
    model, report = _read(source, "weights", lambda: AutoModelForCausalLM.from_pretrained(source, **arguments))
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(HEADS)):
        raise ValueError(f"LLM {source}: lacks {len(missing)} of the model's weights: {', '.join(missing[:3])}")
    return model, tokenizer


def load_tokenizer(name_or_folder: str | Path, revision: str | None, settings: EncoderConfig) -> tuple[Any, Any]:
    """Return (configuration, tokenizer with a pad token) of a folder or a hub name; errors as of `load_pretrained`."""
    source = str(name_or_folder)
    check_llm(name_or_folder)
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    config = _read(source, "config", lambda: AutoConfig.from_pretrained(source, **arguments))
    _check_causal(source, config)
    of_text = config.get_text_config(decoder=True)
    with naming(source):
        check_positions(of_text, settings.max_tokens)
        Reading.parse(settings.reading).of(of_text.num_hidden_layers)
    tokenizer = _read(source, "tokenizer", lambda: AutoTokenizer.from_pretrained(source, **arguments))
    _set_padding(source, tokenizer)
    with naming(source):
        resolve_template(tokenizer, settings)
    return config, tokenizer


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the LLM's name before the ValueErrors of what is inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"LLM {source}: {error}") from None


def _check_causal(source: str, config: Any) -> None:
    """Raise ValueError unless transformers has a causal language model for the configuration."""
    with naming(source):
        check_decoder_only(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"LLM {source}: model type {config.model_type!r} is no decoder-only LLM")


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
    """Return what ``load`` gives; its failures in one line that names the LLM."""
    try:
        return load()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            reason = "it needs code from its own repository, which is not run; expected a model that transformers knows"
            raise ValueError(f"LLM {source}: {reason}") from error
        where = "" if Path(source).is_dir() else "no folder of that name here; from the hub: "
        raise ValueError(f"LLM {source}: {where}cannot read its {what}: {first_line(error)}") from error
