"""All private names of diffusers that reading single-file checkpoints needs, though they are not promised.

`tests/adapter/test_single_file_internals.py` holds it against the installed version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

UNKNOWN = "v1"
"""Model type that diffusers gives to a file that it does not know."""


class _Shaped:
    """A stand-in for a tensor of which only the shape is asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def model_type(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return diffusers' name for the model that a file holds; None where it knows none."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        found: str = infer_diffusers_model_type({name: _Shaped(shape) for name, shape in shapes.items()})
    except (LookupError, ValueError, TypeError, AttributeError):  # it reads tensors that other models lack
        return None
    return None if found == UNKNOWN else found


def load_text_encoder(
    kind: type, tensors: dict[str, torch.Tensor], folder: str, part: str, dtype: torch.dtype | None
) -> Any:
    """Return a text encoder from a file's tensors, by the configuration in a part of a folder.

    Weights that the tensors lack are left on the device "meta".
    """
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    return create_diffusers_clip_model_from_ldm(
        kind, tensors, subfolder=part, config=folder, torch_dtype=dtype, local_files_only=True
    )


def lacking(kind: Any, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> list[str]:
    """Return the weights of a U-Net or autoencoder that a file's tensors don't give, by diffusers' names."""
    from accelerate import init_empty_weights
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    with init_empty_weights():
        expected = kind.from_config(config).state_dict()
    convert = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"]
    return sorted(expected.keys() - convert(config=config, checkpoint=dict(tensors)).keys())
