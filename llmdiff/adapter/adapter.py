"""`LLMAdapter`: the trained part of LLMDiff. A projection `phi` and, in every cross-attention, a second attention."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from llmdiff.adapter.attention import AdapterProcessor, LayerAdapter, LayerShape, cross_attention_shapes
from llmdiff.adapter.config import STATISTICS, WEIGHTS, AdapterConfig, AdapterSettings, read_config
from llmdiff.adapter.files import check_whole, write_files
from llmdiff.adapter.padding import lead
from llmdiff.adapter.phi import Phi
from llmdiff.adapter.refiner import Refiner
from llmdiff.model_files.manifest import MANIFEST
from llmdiff.model_files.safetensors_files import tensor_shapes

logger = logging.getLogger(__name__)


class LLMAdapter(nn.Module):
    """The adapter of Eq. 9 for a U-Net with cross-attentions of the given shapes.

    Build it with `for_unet` or `load`, put it into the U-Net with `install`, and give the U-Net what `context` returns
    as its ``encoder_hidden_states``.
    """

    def __init__(self, shapes: Mapping[str, LayerShape], config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.phi = Phi(config)
        # A module's name can't hold a dot; `state` gives the paths their dots back.
        self.layers = nn.ModuleDict({slashed(path): LayerAdapter(shape, config) for path, shape in shapes.items()})
        # Last, so that the random weights of all other parts are the same with or without it.
        self.refiner = Refiner(config.context_dim, config.refiner) if config.refiner else None
        self.processors: list[tuple[Any, AdapterProcessor]] = []

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, settings: AdapterSettings, **facts: Any) -> LLMAdapter:
        """Return a new adapter for `unet`; `facts` are the fields of `AdapterConfig` that the settings leave out."""
        shapes = cross_attention_shapes(unet)
        facts.setdefault("context_dim", next(iter(shapes.values())).context_dim)
        adapter = cls(shapes, AdapterConfig(**{**settings.model_dump(), **facts}))
        if settings.copy_original:
            for path in shapes:
                if (new := adapter.layer(path).new) is not None:
                    new.copy(unet.get_submodule(path))
        return adapter

    def layer(self, path: str) -> LayerAdapter:
        layer = self.layers[slashed(path)]
        assert isinstance(layer, LayerAdapter)
        return layer

    def context(self, encodings: Tensor, mask: Tensor, base: Tensor | None = None) -> Tensor:
        """Return the U-Net's ``encoder_hidden_states``, ``(batch, token, context_dim)`` in the dtype of `phi`.

        With `band_gates` it is ``(batch, token, bands * context_dim)``: the bands side by side, for each layer to mix.

        `encodings` ``(batch, token, hidden)``, or ``(batch, band, token, hidden)`` where there are bands, any float
        dtype; `mask` ``(batch, token)`` bool, False for padding, whose content is never read; `base`
        ``(batch, base_tokens, context_dim)``, the base model's own text features, with `base_context` "clip" alone.
        Padding leaves as rows of zeros, by which the attention knows it.
        """
        check_inputs(self.config, encodings, base)
        tokens = self.phi(encodings, mask)  # (b, [k,] t, d)
        if self.refiner is not None:
            tokens = self.refiner(tokens, mask)
        if tokens.ndim == 4:
            tokens = tokens.transpose(1, 2).flatten(2)  # (b, t, k d)
        return tokens if base is None else lead(base, tokens)

    def install(self, unet: UNet2DConditionModel) -> None:
        """Add the new path to every cross-attention of `unet`; `uninstall` takes it out again."""
        assert not self.processors, "the adapter is installed already"
        check_shapes(self, unet)
        for path in cross_attention_shapes(unet):
            attn: Any = unet.get_submodule(path)
            if isinstance(attn.processor, AdapterProcessor):
                self.uninstall()
                raise ValueError(
                    "the U-Net holds an adapter already: unload it first, or share it: load_adapter(pipeline, the one "
                    "that has the adapter)"
                )
            processor = AdapterProcessor(self.layer(path), attn.processor, self.config)
            processor.install(attn)
            self.processors.append((attn, processor))

    def uninstall(self) -> None:
        """Put the original processors back: the U-Net computes what it computed before, bit for bit."""
        for attn, processor in self.processors:
            processor.uninstall(attn)
        self.processors = []

    @property
    def scale(self) -> float:
        """Share of the adapter that is mixed in: 1 is Eq. 9 as trained, 0 the original cross-attention alone."""
        return self.processors[0][1].scale if self.processors else 1.0

    @scale.setter
    def scale(self, scale: float) -> None:
        for _, processor in self.processors:
            processor.scale = float(scale)

    @torch.no_grad()
    def weights_by_layer(self) -> list[dict[str, Any]]:
        """Return each path's weight in each layer, in the U-Net's order (Figure 6); with gates, each band's too."""
        return weights_table({dotted(name): self.layer(dotted(name)) for name in self.layers})

    def state(self) -> dict[str, Tensor]:
        """Return the weights under the names of the file: ``phi.…`` and the U-Net's own module paths."""
        return {file_key(name): tensor for name, tensor in self.state_dict().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights that `state` returned."""
        self.load_state_dict({name: tensors[file_key(name)] for name in self.state_dict()})

    def save(
        self,
        folder: str | os.PathLike[str],
        state: dict[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float16,
    ) -> Path:
        """Write ``adapter.safetensors``, ``adapter_config.json`` and, last, ``manifest.json`` with their checksums.

        `state` is written in place of its own weights (an EMA).

        Matrices are written in `dtype`, which is what a file's size depends on; all else, and `STATISTICS`, is float32.
        """
        folder = Path(folder)
        tensors = {
            name: as_written(tensor, torch.float32 if name in STATISTICS else dtype)
            for name, tensor in (state or self.state()).items()
        }
        write_files(folder, to_bytes(tensors, metadata={"format": "pt"}), self.config)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str], unet: UNet2DConditionModel) -> LLMAdapter:
        """Read what `save` wrote, for `unet`; errors as `load_for`."""
        return cls.load_for(folder, cross_attention_shapes(unet))

    @classmethod
    def load_for(cls, folder: str | os.PathLike[str], shapes: Mapping[str, LayerShape]) -> LLMAdapter:
        """Read what `save` wrote, for cross-attentions of the given shapes by their path in diffusers.

        Without any, `phi` and the refiner alone are read, which is all that `context` takes.

        Raises:
            FileNotFoundError: no weights or no configuration.
            ValueError: a file is damaged, or the adapter was made for another shape of U-Net.
        """
        folder = Path(folder)
        if not check_whole(folder):
            logger.warning("%s: no %s, as earlier versions wrote adapters: sizes alone were checked", folder, MANIFEST)
        config = read_config(folder)
        check_tensors(folder, shapes, config)
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS}: not a readable safetensors file ({error})") from error
        adapter = cls(shapes, config)
        adapter.load_state(tensors)
        return adapter


def check_inputs(config: AdapterConfig, encodings: Tensor, base: Tensor | None) -> None:
    """Raise ValueError where an adapter reads other bands, widths or base features; see `LLMAdapter.context`."""
    expected = (config.bands, config.encoding_dim)
    found = (encodings.shape[1] if encodings.ndim == 4 else 1, encodings.shape[-1])
    if found != expected:
        raise ValueError(f"the adapter reads encodings of (bands, width) {expected}, found {found}")
    base_tokens = 0 if base is None else base.shape[1]
    if base_tokens != config.base_tokens:
        raise ValueError(
            f"with base_context {config.base_context!r} the adapter reads {config.base_tokens} tokens of "
            f"the base model's own text features, found {base_tokens}"
        )


def weights_table(layers: Mapping[str, LayerAdapter]) -> list[dict[str, Any]]:
    """Return a row for each layer, by its path: the weight of each attention path, and with gates of each band."""
    table = torch.stack([layer.weights() for layer in layers.values()]).tolist()
    rows: list[dict[str, Any]] = [
        {"layer": path, "original": original, "new": new} for path, (original, new) in zip(layers, table, strict=True)
    ]
    for row in rows:
        if (gate := layers[row["layer"]].gate) is not None:
            row["bands"] = gate.weights().tolist()
    return rows


def check_tensors(folder: Path, shapes: Mapping[str, LayerShape], config: AdapterConfig) -> None:
    """Raise ValueError where an adapter's file lacks tensors that it should have, or has others, or of other shapes.

    What it should have follows from its configuration and from the `shapes` of a U-Net.

    Without shapes the layers' tensors are not looked at. Nothing is allocated for it: not what a configuration claims,
    nor what the file holds.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in LLMAdapter(shapes, config).state().items()}
    found = tensor_shapes(folder / WEIGHTS)
    if not shapes:
        found = {name: shape for name, shape in found.items() if name.startswith(("phi.", "refiner."))}
    if odd := sorted(expected.keys() ^ found.keys()):
        where = "missing" if odd[0] in expected else "not in this U-Net"
        raise ValueError(
            f"{folder / WEIGHTS}: made for another U-Net (trained on {config.base_model or 'an unnamed base'}); "
            f"expected {len(expected)} tensors, found {len(found)}; {odd[0]} is {where}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{folder / WEIGHTS}: {name}: expected {shape}, found {found[name]}")


def check_shapes(adapter: LLMAdapter, unet: UNet2DConditionModel) -> None:
    """Raise ValueError where the adapter's layers are not the U-Net's."""
    shapes = cross_attention_shapes(unet)
    expected, found = list(adapter.layers), [slashed(path) for path in shapes]
    width = next(iter(shapes.values())).context_dim
    if expected != found or width != adapter.config.context_dim:
        raise ValueError(
            f"the adapter has {len(expected)} layers of context width {adapter.config.context_dim}, "
            f"the U-Net {len(found)} of {width}"
        )


def as_written(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor on the CPU: a matrix in `dtype`, if that can hold its numbers, anything else in float32."""
    tensor = tensor.detach().cpu().float()
    if tensor.ndim >= 2 and tensor.abs().max() <= torch.finfo(dtype).max:
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def slashed(path: str) -> str:
    """Return a module path as a name in a `ModuleDict`."""
    return path.replace(".", "/")


def dotted(name: str) -> str:
    """Return a name in a `ModuleDict` as a module path."""
    return name.replace("/", ".")


def file_key(name: str) -> str:
    """Return the file's name of a weight: ``layers.down_blocks/0/…/to_q.weight`` -> ``down_blocks.0.….to_q.weight``."""
    return dotted(name.removeprefix("layers."))
