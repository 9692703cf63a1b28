"""The encoder's settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from llmdiff.encoder.readings import Reading
from llmdiff.encoder.schedules import parse_schedule

WordPath = Literal["block", "isolated"]
Initial = Literal["zeros", "embedding", "noise"]
Noise = Literal["off", "fresh", "cached"]
DType = Literal["float32", "bfloat16", "float16", "float64"]
Quantization = Literal["none", "4bit", "8bit"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
DeviceMap = Literal["auto", "balanced", "sequential"]
TemplateKeep = Literal["all", "caption", "after"]
Schedule = float | str | tuple[float, ...]
CHAT = "chat"
OPTIONS = {
    "word_path": get_args(WordPath),
    "initial": get_args(Initial),
    "noise": get_args(Noise),
    "template_keep": get_args(TemplateKeep),
    "quantization": get_args(Quantization),
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """How captions become encodings. All but ``token_budget`` goes into the encoder's fingerprint."""

    # Read by pydantic alone, where flows check these settings and draw a form of them; `ge` below is for both.
    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    reading: str = "score"
    """What is read of the LLM. `score`: the sum of score differences (Algorithm 1). `score_norm`: each block's score
    layer-normalised before `g` weights it. Hidden states: `last`, after the final norm; `layer:K`, what block K puts
    out (0 is the embedding; -1 the last block's, before the final norm; -2 the one before); `layers:A,B,C`, a band
    each; `mean` of all blocks' outputs; `norm_mean`, each layer-normalised first. Hidden states have no word path: they
    cost no more than a plain pass, and heed neither `word_path`, `g`, `h`, `initial` nor `noise`."""
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
    factor. A mean is over the blocks of its band; `layers:A,B,C` has a band a layer, and `last` and `layer:K` have
    one."""
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
    one token a caption. A tokenizer that ends texts itself does so in any case, and only once."""
    template: str = "{caption}"
    """Text around a caption; must hold `{caption}` once. Its tokens are encoded and stored with every caption. Words
    after the caption are never cut: at them a causal model can say what the whole caption means. `chat`: the
    tokenizer's chat template, the caption as the user's message and the assistant's turn begun."""
    template_keep: TemplateKeep = "all"
    """Which tokens' encodings are kept: `all`, those of the `caption` alone (EOS is dropped too), or those `after` it,
    the template's and EOS. A token with letters of both is the caption's. One token is always kept: of an empty caption
    the one before its place, or else the first. The LLM reads all of them in any case."""
    dtype: DType | None = None
    """Type of the LLM's pass; float32 takes twice the memory of bfloat16. The encoding is summed in float32 (float64
    for float64). Default: bfloat16 for an LLM that is loaded, its own for a model that is given."""
    quantization: Quantization = "none"
    """How the blocks' weights are kept. `4bit`: normal floats by bitsandbytes, about a quarter of bfloat16's memory.
    `8bit`: integers by torchao, half of it. Both run on a GPU and on a CPU, and need the extra `quantized`. An LLM that
    was saved quantised stays as it is, with `none`."""
    token_budget: int = field(default=8192, metadata={"ge": 1})
    """Tokens in a batch, padding included: the memory that a pass takes. Halved when memory runs out."""

    def __post_init__(self) -> None:
        for name, options in OPTIONS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {', '.join(options)}; got {getattr(self, name)!r}")
        if self.dtype is not None and self.dtype not in get_args(DType):
            raise ValueError(f"dtype must be one of {', '.join(get_args(DType))}; got {self.dtype!r}")
        if self.quantization != "none" and self.dtype == "float64":
            raise ValueError(f"quantization is {self.quantization!r}: expected dtype of 16 or 32 bits, found float64")
        for item in dataclasses.fields(self):
            if "ge" in item.metadata:
                _check_integer(item.name, getattr(self, item.name), item.metadata["ge"])
        _check_integer("seed", self.seed, -(2**63))
        if not self.seed < 2**63:
            raise ValueError(f"seed must be below 2^63, got {self.seed}")
        if self.template != CHAT and self.template.count("{caption}") != 1:
            raise ValueError(f"template must hold {{caption}} once, or be {CHAT!r}; got {self.template!r}")
        if self.template_keep == "after" and not self.append_eos and self.template.endswith("{caption}"):
            raise ValueError("template_keep is 'after'; expected text after {caption} in the template, or append_eos")
        object.__setattr__(self, "g", _checked_schedule("g", self.g))
        object.__setattr__(self, "h", _checked_schedule("h", self.h))
        if self.noise == "off" and self.h != 0.0:
            raise ValueError(f"h is {self.h!r} with noise='off'; expected h=0, or noise='fresh' or 'cached'")
        self._check_reading(Reading.parse(self.reading))

    def _check_reading(self, reading: Reading) -> None:
        """Refuse what a reading does not heed; `layers:A,B,C` says how many bands there are."""
        unheeded = () if reading.takes_scores else ("word_path", "g", "h", "initial", "noise")
        for item in dataclasses.fields(self):
            if item.name in unheeded and (value := getattr(self, item.name)) != item.default:
                expected = f"expected {item.default!r}, for hidden states have no such thing"
                raise ValueError(f"{item.name} is {value!r} with reading={self.reading!r}; {expected}")
        if reading.kind == "score_norm" and self.word_path != "block":
            expected = "expected 'block': the table of the isolated path has sums of scores alone"
            raise ValueError(f"word_path is {self.word_path!r} with reading='score_norm'; {expected}")
        if reading.takes_bands:
            return
        bands = max(1, len(reading.layers))
        if self.bands not in (1, bands):
            expected = "one a layer, that is " * (bands > 1)
            raise ValueError(f"bands is {self.bands} with reading={self.reading!r}; expected {expected}{bands}")
        object.__setattr__(self, "bands", bands)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderConfig:
        """Return the configuration of a mapping; ValueError for a key that is not one of its fields."""
        known = [item.name for item in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown encoder setting {', '.join(unknown)}; expected some of {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping of JSON values that :meth:`from_dict` takes."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _check_integer(name: str, value: object, least: int) -> None:
    """Raise ValueError unless the value is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _checked_schedule(name: str, value: Any) -> float | str | tuple[float, ...]:
    """Return the schedule as a float, name or tuple of floats; ValueError for a negative ``h``, NaN or infinity."""
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
