"""Pictures and texts as unit vectors of a CLIP, a SigLIP or any vision model that transformers knows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from llmdiff.devices import device
from llmdiff.model_files.model_folders import first_line
from llmdiff.model_files.named_files import check_named_files


class Texts(NamedTuple):
    """Unit vectors ``(text, width)`` float32, and which texts were longer than the model reads ``(text,)`` bool."""

    vectors: Tensor
    cut: np.ndarray


class Embedder:
    """A model with its tokenizer and picture processor; float32, on a GPU where there is one."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any | None) -> None:
        self.device = torch.device(device())
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the model's pooled features ``(image, width)`` float32 of RGB pictures."""
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device)
        self.model.to(self.device)  # only now: until the first score, the model that draws needs the memory
        encode = getattr(self.model, "get_image_features", self.model)
        found = getattr(encode(**inputs), "pooler_output", None)
        if found is None:
            raise ValueError(
                f"metric model: expected one with a vector a picture, found a {self.model.config.model_type}"
            )
        return found.float()

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return `features` as unit vectors."""
        return normalize(self.features(images), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Texts:
        """Return vectors of texts, padded as the model was trained: SigLIP to its full length, CLIP to the longest."""
        assert self.tokenizer is not None
        self.model.to(self.device)
        length = self.model.config.text_config.max_position_embeddings
        padding = "longest" if self.model.config.model_type == "clip" else "max_length"
        options = {"max_length": length, "truncation": True, "padding": padding, "return_tensors": "pt"}
        inputs = self.tokenizer(list(texts), **options).to(self.device)
        cut = [len(ids) > length for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        return Texts(normalize(self.model.get_text_features(**inputs).pooler_output.float(), dim=-1), np.array(cut))

    def logits(self, cosines: Tensor) -> Tensor:
        """Return the model's own logits, of cosines between pictures and texts."""
        bias = getattr(self.model, "logit_bias", 0.0)
        return cosines * self.model.logit_scale.exp() + bias


@lru_cache(maxsize=4)  # metrics on the same model share it
def load_embedder(name: str, with_text: bool = True) -> Embedder:
    """Load a folder or hub name: safetensors alone, no code of the model's own.

    Pictures are resized by Pillow whether or not torchvision is there, so that a machine's packages do not change the
    scores. ValueError where the model, its tokenizer or its processor can't be loaded.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    where = "" if Path(name).is_dir() else "no folder of that name here; from the hub: "
    try:
        check_named_files(name)
        model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
        if with_text and not hasattr(model, "get_text_features"):
            raise ValueError(f"expected a CLIP or a SigLIP, found a {model.config.model_type}")
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False) if with_text else None
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ValueError(f"metric model {name}: {where}cannot be loaded: {first_line(error)}") from error
    return Embedder(model, processor, tokenizer)
