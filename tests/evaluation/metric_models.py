"""Tiny random CLIP, SigLIP, SigLIP 2 and vision models of the real classes, in folders as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from tests.adapter import tiny

SIDE, LENGTH = 32, 24  # pixels, tokens
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
EYES = {**SMALL, "image_size": SIDE, "patch_size": 8}
TEXTS = ["a red circle", "A large, blue square!", "two green things", "a circle left of a square"]


def clip(folder: Path) -> Path:
    tokenizer = tiny.clip_tokenizer()
    tokenizer.model_max_length = LENGTH
    words = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_dim": 16}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    config = CLIPConfig(text_config={**words, **ends}, vision_config={**EYES, "projection_dim": 16}, projection_dim=16)
    return _save(folder, CLIPModel, config, processor, tokenizer)


def siglip(folder: Path) -> Path:
    """Save a SigLIP with a SentencePiece tokenizer, as the real one's."""
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=30,
        unk_id=2,
        bos_id=-1,
        eos_id=1,
        pad_id=0,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=LENGTH, do_lower_case=True)
    words = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_size": 32}
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _save(folder, SiglipModel, SiglipConfig(text_config=words, vision_config=EYES), processor, tokenizer)


def siglip2(folder: Path) -> Path:
    """The kind that keeps pictures' proportions: patches of any size of picture."""
    letters = "▁abcdefghijklmnopqrstuvwxyz"  # no capitals and no marks
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *letters])}
    tokenizer = Siglip2Tokenizer(vocabulary, [], model_max_length=LENGTH)
    words = {**SMALL, "vocab_size": len(vocabulary), "max_position_embeddings": LENGTH, "projection_size": 32}
    eyes = {**SMALL, "patch_size": 8, "num_patches": 16}
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    return _save(folder, Siglip2Model, Siglip2Config(text_config=words, vision_config=eyes), processor, tokenizer)


def vision(folder: Path) -> Path:
    """Save a vision model that knows no text."""
    config = Dinov2Config(**{**EYES, "num_hidden_layers": 1, "patch_size": 16})
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _save(folder, Dinov2Model, config, processor)


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Random blots, of other sizes than the models'."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(256, size=(count, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(blot).resize((56, 48), Image.Resampling.BICUBIC) for blot in blots]


def _save(folder: Path, kind: Any, config: Any, processor: Any, tokenizer: Any = None) -> Path:
    torch.manual_seed(0)
    model = kind(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("weight", "projection", "embedding")):
            torch.nn.init.normal_(parameter, std=0.15)  # so that pictures and texts differ by more than rounding
    if kind is CLIPModel:  # texts near one another, or CLIP-IQA's 100 times would make every answer certain
        torch.nn.init.constant_(model.text_model.final_layer_norm.bias, 20)
    model.save_pretrained(folder)
    for part in (processor, tokenizer):
        if part is not None:
            part.save_pretrained(folder)
    return folder
