"""The encoder's settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from llmdiff.encoder.schedules import parse_schedule

WordPath = Literal["block", "isolated"]
Initial = Literal["zeros", "embedding", "noise"]
Noise = Literal["off", "fresh", "cached"]
DType = Literal["float32", "bfloat16", "float16", "float64"]
Quantization = Literal["none", "4bit", "8bit"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
DeviceMap = Literal["auto", "balanced", "sequential"]
CHOICES = {"word_path": WordPath, "initial": Initial, "noise": Noise, "dtype": DType, "quantization": Quantization}
Schedule = float | str | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """How captions become encodings. All but ``token_budget`` goes into the encoder's fingerprint."""

    # Read by pydantic alone, where flows check these settings and draw a form of them; `ge` below is for both.
    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    word_path: WordPath = "block"
    """What the word score is. `block`: each block is fed the token's hidden state alone (Algorithm 1), which takes
    1/12 of a forward pass more for parallel blocks (Phi) and 3/4 more for sequential ones (Llama). `isolated`: the
    token is fed alone to the whole LLM, once for each LLM, into a table of vocabulary x width x 4 bytes; then it
    costs next to nothing."""
    g: Schedule = 1.0
    """Step size: a number, one number a block from the embedding up, or `constant`, `linear`, `cosine`, `ddpm`
    (`name:mean` scales it to that mean). It costs nothing."""
    h: Schedule = 0.0
    """Noise level, given like `g`; it needs `noise` other than `off`."""
    bands: int = field(default=1, metadata={"ge": 1})
    """Sums over this many depth bands are kept apart, so that training can weight them; the store grows by the
    factor."""
    initial: Initial = "embedding"
    """`c_T`: zeros, the token's embedding, or Gaussian noise. It costs nothing."""
    noise: Noise = "off"
    """`fresh`: drawn anew at each training step from `Encoder.noise_std`, which costs nothing. `cached`: drawn for
    every block into the encoding, which on a CPU can take longer than the scores themselves."""
    seed: int = 0
    """Seed of all noise; with caption, block, token and channel it is all that the noise depends on."""
    max_tokens: int = field(default=120, metadata={"ge": 1})
    """Longer captions are cut to this many tokens (EOS included), counted and reported; cost and storage grow with the
    tokens."""
    append_eos: bool = True
    """Ends each caption with EOS: the last word is in nobody's context, so without it its meaning is lost. It takes
    one token a caption."""
    template: str = "{caption}"
    """Text around a caption; must hold `{caption}` once. Its tokens are encoded and stored with every caption. Words
    after the caption are never cut: at them a causal model can say what the whole caption means."""
    dtype: DType = "bfloat16"
    """Type of the LLM's pass; float32 takes twice the memory of bfloat16. The encoding is summed in float32 (float64
    for float64)."""
    quantization: Quantization = "none"
    """How the blocks' weights are kept. `4bit`: normal floats by bitsandbytes, about a quarter of bfloat16's memory.
    `8bit`: integers by torchao, half of it. Both run on a GPU and on a CPU, and need the extra `quantized`. An LLM that
    was saved quantised stays as it is, with `none`."""
    token_budget: int = field(default=8192, metadata={"ge": 1})
    """Tokens in a batch, padding included: the memory that a pass takes. Halved when memory runs out."""

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            if getattr(self, name) not in get_args(options):
                raise ValueError(f"{name} must be one of {', '.join(get_args(options))}; got {getattr(self, name)!r}")
        for item in dataclasses.fields(self):
            if "ge" in item.metadata:
                _check_integer(item.name, getattr(self, item.name), item.metadata["ge"])
        _check_integer("seed", self.seed, -(2**63))
        if not self.seed < 2**63:
            raise ValueError(f"seed must be below 2^63, got {self.seed}")
        if self.template.count("{caption}") != 1:
            raise ValueError(f"template must hold {{caption}} once, got {self.template!r}")
        if self.quantization != "none" and self.dtype == "float64":
            raise ValueError(f"quantization is {self.quantization!r}: expected dtype of 16 or 32 bits, found float64")
        object.__setattr__(self, "g", _checked_schedule("g", self.g))
        object.__setattr__(self, "h", _checked_schedule("h", self.h))
        if self.noise == "off" and self.h != 0.0:
            raise ValueError(f"h is {self.h!r} with noise='off'; expected h=0, or noise='fresh' or 'cached'")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderConfig:
        """The configuration of a mapping; ValueError on a key that is none of its fields."""
        known = [item.name for item in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown encoder setting {', '.join(unknown)}; expected some of {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A mapping of JSON values that :meth:`from_dict` takes."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _check_integer(name: str, value: object, least: int) -> None:
    """Raises ValueError unless the value is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _checked_schedule(name: str, value: Any) -> float | str | tuple[float, ...]:
    """The schedule as a float, a name or a tuple of floats; ValueError on a negative ``h`` or a non-finite number."""
    if isinstance(value, str):
        mean = parse_schedule(value)[1]
        checked: float | str | tuple[float, ...] = value
        numbers = [mean]
    elif isinstance(value, Sequence):
        numbers = [float(item) for item in value]
        checked = tuple(numbers)
    else:
        checked = float(value)
        numbers = [checked]
    if not all(math.isfinite(number) for number in numbers) or (name == "h" and min(numbers, default=0.0) < 0.0):
        raise ValueError(f"{name} must be finite{' and not negative' if name == 'h' else ''}, got {value!r}")
    return checked
