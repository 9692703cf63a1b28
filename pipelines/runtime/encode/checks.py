"""Checks of an encode request before anything is loaded; they need no Prefect."""

from __future__ import annotations

from llmdiff.compilation import check_compiler
from llmdiff.diffusion.base import is_xl, unet_config
from llmdiff.encoder.llm.loading import Placement, check_loading
from llmdiff.model_files.base_folders import check_base
from pipelines.requests.encode import EncodeRequest


def check_models(request: EncodeRequest, pictures: bool) -> None:
    """Raise ValueError for a model that a request lacks, with or without pictures in its data, for one that is no base,
    or an LLM that can't be loaded as asked for; FileNotFoundError or ModuleNotFoundError where one, or a package for
    it, is not there.
    """
    request.check_named(pictures)
    if request.diffusion is not None:
        check_base(request.diffusion)
    if pictures and request.torch_compile:
        check_compiler()
    if request.encoder == "llm" and request.llm is not None:
        check_loading(request.llm, request.settings)
        Placement(device_map=request.device_map, attention=request.attention, torch_compile=request.torch_compile)


def check_pictures(request: EncodeRequest, pictures: bool, rows: bool) -> None:
    """Raise ValueError where a diffusion model is named for its autoencoder alone, and all rows are captions alone."""
    if request.readiness is None and rows and not pictures and only_for_pictures(request):
        raise ValueError(
            f"data: expected pictures for the autoencoder of {request.diffusion}, found captions alone; leave "
            "diffusion out for these"
        )


def only_for_pictures(request: EncodeRequest) -> bool:
    """Return whether a request names a diffusion model for its autoencoder alone: its texts are not read either."""
    return request.encoder == "llm" and request.diffusion is not None and not is_xl(unet_config(request.diffusion))
