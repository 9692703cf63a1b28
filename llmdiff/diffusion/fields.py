"""Fields of a base's configurations that encoding and training read: checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Expected(NamedTuple):
    """Condition on a field's value, where it is present; a library's default stands for a missing one."""

    words: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_factor(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _are_counts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_count, value))


COUNT = Expected("a whole number above 0", _is_count)
COUNTS = Expected("a list of whole numbers above 0", _are_counts)
FIELDS: dict[str, dict[str, Expected]] = {
    "vae": {
        "_class_name": Expected("AutoencoderKL", lambda value: value == "AutoencoderKL"),
        "scaling_factor": Expected("a number above 0", _is_factor),
        "block_out_channels": COUNTS,
        "latent_channels": COUNT,
    },
    "unet": {
        "in_channels": COUNT,
        "out_channels": COUNT,
        "block_out_channels": COUNTS,
        "cross_attention_dim": Expected("its width", lambda value: _is_count(value) or _are_counts(value)),
    },
    "scheduler": {
        "_class_name": Expected(
            "a schedule of noise levels, as DDPM's: training has no target for flow matching",
            lambda value: "FlowMatch" not in str(value),
        ),
        "num_train_timesteps": COUNT,
    },
}
FILES = {"vae": "config.json", "unet": "config.json", "scheduler": "scheduler_config.json"}
"""File that holds a part's fields, by part."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""Names, in a base's schedule, of what a base may predict: training has a target for each."""


def check_fields(part: str, config: Any, base: str) -> None:
    """Raise ValueError by file and field where a part's configuration holds what it can't be used with."""
    where = f"diffusion model {base}: {part}/{FILES[part]}"
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: expected a JSON object, found {config!r:.80}")
    for name, expected in FIELDS[part].items():
        if name in config and not expected.holds(config[name]):
            raise ValueError(f"{where}: {name}: expected {expected.words}, found {config[name]!r:.80}")


def check_prediction_type(kind: str, where: str = "") -> None:
    """Raise ValueError where a noise schedule's `prediction_type` is none of `PREDICTIONS`."""
    if kind not in PREDICTIONS:
        expected = f"expected one of {', '.join(PREDICTIONS)}, found {kind!r}"
        raise ValueError(f"{where}scheduler_config.json: prediction_type: {expected}")
