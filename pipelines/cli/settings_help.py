"""The encoder's settings as text: the end of `llmdiff encode --help`, from the docstrings of `EncoderConfig`."""

from __future__ import annotations

from pydantic import TypeAdapter

from llmdiff.encoder.config import EncoderConfig


def encoder_settings() -> dict[str, str]:
    """Return what each setting of the encoder does and what it costs."""
    fields = TypeAdapter(EncoderConfig).json_schema()["properties"]
    return {name: " ".join(field["description"].split()) for name, field in fields.items()}


def settings_help() -> str:
    """Return the settings as the end of a command's help."""
    lines = [f"{name}: {text}" for name, text in encoder_settings().items()]
    return "Encoder settings, for --config and --set.\n\n" + "\n\n".join(lines)
