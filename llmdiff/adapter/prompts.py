"""Encode prompts as the adapter's contexts, in pipelines that know nothing of adapters."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from llmdiff.adapter.adapter import LLMAdapter
from llmdiff.adapter.diffusers_internals import execution_device, is_compiled, is_offloaded
from llmdiff.adapter.padding import lead, pad, whole_length
from llmdiff.encoder.text_encoder import TextEncoder

PASSED_ON = ("lora_scale", "clip_skip")  # options passed on to the base's own text encoder


class PromptEncoder:
    """Takes the place of a pipeline's ``encode_prompt`` and returns the adapter's context instead of text features.

    Everything a pipeline does with prompt embeddings (repeating, guidance, callbacks, giving them back as
    ``prompt_embeds``) works on the context, because it is one tensor that carries its padding. It ends in a row of
    zeros, by which `LoadedAdapter` knows it. Where the pipeline has a ControlNet, the base's own text features lead it.

    A pipeline calls this before all else, wherever it has been moved by then: so adapter and LLM follow here.
    """

    def __init__(self, pipe: DiffusionPipeline, loaded: LoadedAdapter) -> None:
        self.pipe = pipe
        self.loaded = loaded
        self.original = pipe.encode_prompt
        self.signature = inspect.signature(self.original)

    @property
    def text_tokens(self) -> int:
        """Number of the base's own text features that lead a context."""
        if self.has_controlnet:
            return int(self.pipe.tokenizer.model_max_length)
        return self.loaded.adapter.config.base_tokens

    @property
    def has_controlnet(self) -> bool:
        return isinstance(getattr(self.pipe, "controlnet", None), nn.Module)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        """Return contexts of prompts and negative prompts, ``(prompt * num_images_per_prompt, token, channel)`` each.

        It is called as the pipeline's own method. Pooled text features, which SDXL has besides, stay the base's.
        """
        call = self.signature.bind(*args, **kwargs)
        call.apply_defaults()
        contexts = self.contexts(**call.arguments)
        if "pooled_prompt_embeds" not in call.arguments:
            return contexts
        return *contexts, *self.original(*args, **kwargs)[2:]

    def contexts(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the contexts of prompts; contexts that are given are returned as they are."""
        options = {name: options[name] for name in PASSED_ON if name in options}
        self.loaded.skip = self.text_tokens - self.loaded.adapter.config.base_tokens
        here = execution_device(self.pipe)
        self.loaded.adapter.to(here, self.pipe.unet.dtype)
        given, without = prompt_embeds, negative_prompt_embeds
        if given is None or (do_classifier_free_guidance and without is None):
            with self.llm_at(here):
                if given is None:
                    given = self.context([prompt] if isinstance(prompt, str) else prompt or [], here, options)
                if do_classifier_free_guidance and without is None:
                    captions = negatives(negative_prompt, len(given))
                    without = self.context(captions, here, options, no_prompt=negative_prompt is None)
        to, times = device or here, num_images_per_prompt
        if not do_classifier_free_guidance or without is None:
            return given.to(to).repeat_interleave(times, dim=0), None
        given, without = same_length(given.to(to), without.to(to))
        return given.repeat_interleave(times, dim=0), without.repeat_interleave(times, dim=0)

    @contextmanager
    def llm_at(self, device: torch.device) -> Iterator[None]:
        """Move the LLM to the pipeline's device; after the block, return that of an offloaded pipeline to the CPU."""
        for module in self.loaded.following:
            module.to(device)
        try:
            yield
        finally:
            if is_offloaded(self.pipe.unet):
                for module in self.loaded.following:
                    module.to("cpu")

    @torch.no_grad()
    def context(
        self, captions: list[str], device: torch.device, options: dict[str, Any], no_prompt: bool = False
    ) -> Tensor:
        """Return contexts of captions, or of the empty caption that stands for `no_prompt`."""
        adapter = self.loaded.adapter
        encodings, mask = pad([encoding.to(device) for encoding in self.loaded.encoder(captions)])
        text = self.text(captions, device, options) if self.text_tokens else None
        if text is not None and no_prompt and self.pipe.config.get("force_zeros_for_empty_prompt"):
            text = torch.zeros_like(text)  # as SDXL's pipeline does
        base = text if adapter.config.base_tokens else None
        context = adapter.context(encodings, mask.to(device), base)
        if text is not None and base is None:
            context = lead(text, context)
        length = context.shape[1] + 1
        more = (whole_length(length) if is_compiled(self.pipe.unet) else length) - context.shape[1]
        return F.pad(context, (0, 0, 0, more)).to(self.pipe.unet.dtype)

    def text(self, captions: list[str], device: torch.device, options: dict[str, Any]) -> Tensor:
        """Return the base's own text features."""
        features: Tensor = self.original(
            captions, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False, **options
        )[0]
        return features

    def install(self) -> None:
        """Take the place of the pipeline's ``encode_prompt``; a ControlNet gets the base's text features alone."""
        self.pipe.llm_adapter = self.loaded.adapter
        self.pipe.encode_prompt = self
        self.hooks = []
        if self.has_controlnet:
            self.hooks.append(self.pipe.controlnet.register_forward_pre_hook(self.text_alone, with_kwargs=True))

    def uninstall(self) -> None:
        """Give the pipeline its own ``encode_prompt`` back."""
        for hook in self.hooks:
            hook.remove()
        del self.pipe.llm_adapter, self.pipe.encode_prompt

    def text_alone(self, controlnet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Give a ControlNet only the base's own text features of a context, which it was trained on."""
        width = self.loaded.adapter.config.context_dim
        text = kwargs["encoder_hidden_states"][:, : self.text_tokens, :width].contiguous()
        return args, {**kwargs, "encoder_hidden_states": text}


class LoadedAdapter:
    """An adapter in a U-Net, what encodes captions for it, and the pipelines that share the U-Net.

    Args:
        following: modules that move to where a pipeline computes; an LLM that was given ready made stays where it is.
    """

    def __init__(
        self, unet: nn.Module, adapter: LLMAdapter, encoder: TextEncoder, following: Sequence[nn.Module]
    ) -> None:
        self.unet = unet
        self.adapter = adapter
        self.encoder = encoder
        self.following = following
        self.pipelines: weakref.WeakSet[DiffusionPipeline] = weakref.WeakSet()
        self.skip = 0  # tokens at the start of a context that are for a ControlNet alone
        self.known: Callable[[], Tensor | None] = lambda: None

    def install(self) -> None:
        """Put the adapter into the U-Net."""
        self.adapter.install(self.unet)
        self.hook = self.unet.register_forward_pre_hook(self.before_unet, with_kwargs=True)

    def add(self, pipe: DiffusionPipeline) -> None:
        """Let a pipeline with this U-Net encode its prompts for the adapter."""
        PromptEncoder(pipe, self).install()
        self.pipelines.add(pipe)

    def remove(self) -> None:
        """Give the U-Net and all its pipelines back as they were."""
        for pipe in self.pipelines:
            pipe.encode_prompt.uninstall()
        self.hook.remove()
        self.adapter.uninstall()

    def before_unet(self, unet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Refuse text that is no context, which the adapter would read as one: another pipeline's on this U-Net."""
        if "encoder_hidden_states" not in kwargs:
            args, kwargs = args[:2], {"encoder_hidden_states": args[2], **kwargs}
        context = kwargs["encoder_hidden_states"]
        # Checked once a call: the tensor is the same at every step, and reading it makes a GPU wait.
        if not torch.compiler.is_compiling() and context is not self.known():
            if context[:, -1].any():
                raise ValueError(
                    "the U-Net holds an LLMDiff adapter that this pipeline does not know of: call "
                    "load_adapter(pipeline, the pipeline that has the adapter), or unload_adapter on that one"
                )
            self.known = weakref.ref(context)
        return args, {**kwargs, "encoder_hidden_states": context[:, self.skip :]}


def negatives(negative_prompt: str | list[str] | None, count: int) -> list[str]:
    """Return one negative prompt for each prompt; none given is the empty caption, as in training."""
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * count
    if len(negative_prompt) != count:
        raise ValueError(f"expected {count} negative prompts, one a prompt, found {len(negative_prompt)}")
    return negative_prompt


def same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pad the shorter context with rows of zeros, which the adapter knows as padding."""
    longest = max(a.shape[1], b.shape[1])
    return F.pad(a, (0, 0, 0, longest - a.shape[1])), F.pad(b, (0, 0, 0, longest - b.shape[1]))
