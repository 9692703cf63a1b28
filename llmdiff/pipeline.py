"""`LLMDiffPipeline`: Stable Diffusion told what to draw by a decoder-only LLM; and the adapter in other pipelines."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from llmdiff.adapter import AdapterConfig, LLMAdapter
from llmdiff.adapter.diffusers_internals import execution_device, not_compiled
from llmdiff.adapter.files import check_adapter
from llmdiff.adapter.hub import adapter_folder
from llmdiff.adapter.prompts import LoadedAdapter
from llmdiff.diffusion.base import LOADING, is_xl, unet_config
from llmdiff.diffusion.components import load_components
from llmdiff.diffusion.xl import text_encoder_of
from llmdiff.encoder.text_encoder import TextEncoder
from llmdiff.model_files.base_folders import BASE_PARTS, XL_PARTS, check_base, variant_of
from llmdiff.model_files.checkpoint_file import checkpoint_path
from llmdiff.model_files.named_files import check_pipeline_files

if TYPE_CHECKING:
    from llmdiff.encoder import EncoderConfig


class Adapted:
    """Base of pipelines with an adapter: how they are loaded and called."""

    @classmethod
    def from_pretrained(
        cls,
        base: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | None = None,
        llm: str | os.PathLike[str] | TextEncoder | None = None,
        **options: Any,
    ) -> Any:
        """Load a base model, an adapter (folder or hub name) and the LLM (folder, name, `Encoder`) of its training.

        The base is a folder, a hub name, or a single-file checkpoint (``.safetensors``). `options` go to diffusers'
        ``from_pretrained``, or of a single file to the pipeline itself; without a `dtype` all is float32. No LLM is
        needed by an adapter trained on the base's own text features. A base of SDXL's shape gives an
        `LLMDiffXLPipeline`. ValueError where the LLM is another than in training, an adapter can't go into the base,
        or one of its files is damaged.
        """
        if adapter is not None:
            adapter = adapter_folder(adapter)
            check_adapter(adapter)  # before anything heavy is loaded
        unet = options["unet"].config if "unet" in options else unet_config(os.fspath(base))
        if (xl := is_xl(unet)) != issubclass(cls, StableDiffusionXLPipeline):
            kind = LLMDiffXLPipeline if xl else LLMDiffPipeline
            return kind.from_pretrained(base, adapter, llm, **options)
        if xl:
            options.pop("safety_checker", None)  # a single file has none
        parts = [part for part in BASE_PARTS if (xl or part not in XL_PARTS) and part not in options]
        check_base(base, *parts)
        dtype = options.pop("torch_dtype", options.pop("dtype", torch.float32))
        pipe: Any
        if checkpoint_path(base) is not None:
            pipe = cls(**{**load_components(os.fspath(base), parts, dtype), **options})
        else:
            check_pipeline_files(base)  # checks other parts too, such as a safety checker
            options = {**LOADING, "variant": variant_of(Path(base) / "unet"), **options}
            pipe = super().from_pretrained(base, dtype=dtype, **options)  # type: ignore[misc]
        if adapter is not None:
            load_adapter(pipe, adapter, llm)
        return pipe

    @classmethod
    def from_single_file(
        cls,
        file: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | None = None,
        llm: str | os.PathLike[str] | TextEncoder | None = None,
        **options: Any,
    ) -> Any:
        """Load as `from_pretrained` does; this is diffusers' name for a base that is a single file."""
        return cls.from_pretrained(file, adapter, llm, **options)

    def __call__(self, *args: Any, adapter_scale: float | None = None, **kwargs: Any) -> Any:
        """Draw as diffusers' pipeline does; `adapter_scale` 1 is the adapter as trained, 0 the original alone."""
        draw: Any = super().__call__  # type: ignore[misc]
        if adapter_scale is None:
            return draw(*args, **kwargs)
        adapter = adapter_of(self)
        before, adapter.scale = adapter.scale, adapter_scale
        try:
            return draw(*args, **kwargs)
        finally:
            adapter.scale = before


class LLMDiffPipeline(Adapted, StableDiffusionPipeline):
    """`StableDiffusionPipeline` with an adapter and its LLM: called like it, ``adapter_scale`` besides."""


class LLMDiffXLPipeline(Adapted, StableDiffusionXLPipeline):
    """`StableDiffusionXLPipeline` with an adapter and its LLM: called like it, ``adapter_scale`` besides."""


def load_adapter(
    pipe: DiffusionPipeline,
    adapter: str | os.PathLike[str] | DiffusionPipeline,
    llm: str | os.PathLike[str] | TextEncoder | None = None,
) -> LLMAdapter:
    """Put an adapter into a pipeline of the Stable Diffusion family: its U-Net, and its way of encoding prompts.

    `adapter` is a folder, or a name on the hub (``hf:owner/name``); or another pipeline with the same U-Net, whose
    adapter this one is to know of.

    An LLM loaded here is where the pipeline is, and follows it; a ready `Encoder` stays where it is. ValueError, with
    the reason, for a U-Net that the adapter can't go into, for an LLM other than in training, and for a damaged file.
    """
    check_pipeline(pipe)
    if "llm_adapter" in vars(pipe):
        raise ValueError("the pipeline has an adapter already: unload it first")
    loaded = loaded_in(adapter, pipe) if isinstance(adapter, DiffusionPipeline) else read(adapter, pipe, llm)
    loaded.add(pipe)
    return loaded.adapter


def unload_adapter(pipe: DiffusionPipeline) -> None:
    """Give the pipeline, and those that share its U-Net, back as they were before `load_adapter`."""
    adapter_of(pipe)
    pipe.encode_prompt.loaded.remove()


def adapter_of(pipe: DiffusionPipeline) -> LLMAdapter:
    """Return the adapter that `load_adapter` put into a pipeline."""
    if "llm_adapter" not in vars(pipe):
        raise ValueError("the pipeline has no adapter: load one first")
    adapter = pipe.llm_adapter
    assert isinstance(adapter, LLMAdapter)
    return adapter


def check_pipeline(pipe: DiffusionPipeline) -> None:
    """Raise ValueError for a pipeline of another family."""
    if not (hasattr(pipe, "encode_prompt") and hasattr(getattr(pipe, "unet", None), "config")):
        raise ValueError(f"expected a pipeline with a U-Net that is told what to draw, found {type(pipe).__name__}")


def read(
    adapter: str | os.PathLike[str], pipe: DiffusionPipeline, llm: str | os.PathLike[str] | TextEncoder | None
) -> LoadedAdapter:
    """Load an adapter folder for a pipeline's U-Net, with the encoder that it was trained with."""
    adapter = adapter_folder(adapter)
    unet = not_compiled(pipe.unet)
    weights = LLMAdapter.load(adapter, unet)  # before the LLM, which takes longer
    encoder, following = find_encoder(pipe, weights.config, llm)
    check_encoder(adapter, weights.config, encoder)
    weights = weights.to(execution_device(pipe), unet.dtype)
    loaded = LoadedAdapter(unet, weights.eval().requires_grad_(False), encoder, following)
    loaded.install()
    return loaded


def loaded_in(source: DiffusionPipeline, pipe: DiffusionPipeline) -> LoadedAdapter:
    """Return the loaded adapter of another pipeline with the same U-Net."""
    adapter_of(source)
    loaded: LoadedAdapter = source.encode_prompt.loaded
    if not_compiled(pipe.unet) is not loaded.unet:
        raise ValueError("the two pipelines have different U-Nets: load the adapter from its folder")
    return loaded


def find_encoder(
    pipe: DiffusionPipeline, config: AdapterConfig, llm: str | os.PathLike[str] | TextEncoder | None
) -> tuple[TextEncoder, list[nn.Module]]:
    """Return the encoder that the adapter names: the base's own, or the LLM with the settings that it was trained with.

    Return also the modules of it that move with the pipeline.
    """
    if config.encoder == "base":
        return text_encoder_of(pipe), []
    if llm is None:
        raise ValueError(
            f"the adapter reads an LLM's encodings: expected the folder or name of {config.llm}, found none"
        )
    if not isinstance(llm, str | os.PathLike):
        return llm, []
    from llmdiff.encoder import Encoder

    encoder = Encoder.from_pretrained(os.fspath(llm), encoder_settings(config), device=execution_device(pipe))
    return encoder, [encoder.llm.model]


def encoder_settings(config: AdapterConfig) -> EncoderConfig:
    """Return the settings in an encoder's description, without those that are None, as they have no effect."""
    from llmdiff.encoder import EncoderConfig

    names = [field.name for field in dataclasses.fields(EncoderConfig)]
    settings = {
        name: value for name, value in config.encoder_description.items() if name in names and value is not None
    }
    for name in ("g", "h"):  # described with a number for each block; a constant fits LLMs of any depth, for the check
        if len(set(settings.get(name, ()))) == 1:
            settings[name] = settings[name][0]
    return EncoderConfig.from_dict(settings)


def check_encoder(adapter: str | os.PathLike[str], config: AdapterConfig, encoder: TextEncoder) -> None:
    """Raise ValueError, naming both, where an encoder is not the one that the adapter was trained with."""
    if encoder.hidden_size != config.encoding_dim:
        raise ValueError(
            f"{adapter}: the adapter was trained on encodings of width {config.encoding_dim} ({config.llm}), "
            f"the LLM's is {encoder.hidden_size}"
        )
    expected, found = config.encoder_description, encoder.describe()
    if different := sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)):
        key = different[0]
        raise ValueError(
            f"{adapter}: the adapter was trained with another encoder: {key}: expected {expected.get(key)!r} "
            f"(fingerprint {config.encoder_fingerprint}), found {found.get(key)!r}"
        )
