"""What decides an encoding's numbers, as JSON values: what an encoder's fingerprint is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.llm.decoder_llm import DecoderLLM
from llmdiff.encoder.llm.quantization import METHODS, quantization_of
from llmdiff.encoder.readings import Reading


def describe_llm(llm: DecoderLLM, config: EncoderConfig) -> dict[str, Any]:
    """Return what decides an LLM's numbers: its weights, and by what method they are quantised, if by any.

    By the settings' method, or by that of its own configuration, where it was saved quantised.
    """
    about = {"class": llm.name, "content": llm.identity, "hidden_size": llm.hidden_size}
    by_setting = config.quantization != "none"
    method = METHODS[config.quantization].words if by_setting else quantization_of(llm.config)
    return about if method is None else about | {"quantization": method}


def describe_settings(
    config: EncoderConfig, g: Sequence[float], h: Sequence[float], noise_std: Sequence[float]
) -> dict[str, Any]:
    """Return the settings that decide an encoding's numbers; those without an effect are None.

    Those that came later are left out where they change nothing, so that fingerprints stay what they were.

    Args:
        config: the settings, the layers of their reading counted from the embedding.
        g, h: step size and noise level of each block.
        noise_std: see `Encoder.noise_std`.
    """
    drawn = config.noise == "cached"
    reading = Reading.parse(config.reading)
    later: dict[str, Any] = {"noise_std": list(noise_std)} if config.noise == "fresh" else {}
    if reading.kind != "score":
        later["reading"] = str(reading)
    if config.template_keep != "all":
        later["template_keep"] = config.template_keep
    if config.quantization != "none":
        later["quantization"] = config.quantization
    scores = reading.takes_scores
    return {
        "word_path": config.word_path if scores else None,
        "g": list(g) if scores else None,
        "h": list(h) if config.noise != "off" else None,
        "bands": config.bands,
        "initial": config.initial if scores else None,
        "noise": config.noise if scores else None,
        "seed": config.seed if drawn or config.initial == "noise" else None,
        "max_tokens": config.max_tokens,
        "append_eos": config.append_eos,
        "template": config.template,
        "dtype": config.dtype,
        **later,
    }
