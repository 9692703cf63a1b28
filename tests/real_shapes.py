"""Makes models of real shape with random weights, to try the commands where no model hub is reachable.

    python -m tests.real_shapes OUT --tokenizers FOLDER [--blocks 4] [--unet]

`OUT/phi` is a Phi-1.5 of real width with few blocks and the GPT-2 byte-level BPE that Phi's tokenizer extends.
`OUT/sd` has the autoencoder, text encoder and tokenizer of Stable Diffusion 1.5, and its U-Net where `--unet` is given
(860 M parameters; without it, its configuration alone, which is all that `llmdiff encode` reads of it).

FOLDER holds ``gpt2_vocab.json``, ``gpt2_merges.txt`` and ``clip_bpe_simple_vocab_16e6.txt.gz`` as published.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, GPT2TokenizerFast, PhiConfig, PhiForCausalLM

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
}
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}  # the rest are diffusers' defaults
CLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_MERGES = 49152 - 256 - 2  # of the published list, what CLIP's vocabulary uses


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.real_shapes", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizers", type=Path, required=True, help="folder of the published vocabularies")
    parser.add_argument("--blocks", type=int, default=4, help="of the LLM; Phi-1.5 has 24")
    parser.add_argument("--unet", action="store_true", help="write the U-Net's weights too (1.7 GB)")
    given = parser.parse_args()
    torch.manual_seed(0)
    make_phi(given.out / "phi", given.tokenizers, given.blocks)
    make_diffusion(given.out / "sd", given.tokenizers, given.unet)


def make_phi(folder: Path, tokenizers: Path, blocks: int) -> None:
    """Phi-1.5's configuration but for the number of blocks."""
    config = PhiConfig(
        vocab_size=51200,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        partial_rotary_factor=0.5,
        max_position_embeddings=2048,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = PhiForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are computed, not stored
    fill(model)
    model.save_pretrained(folder)
    vocabulary, merges = str(tokenizers / "gpt2_vocab.json"), str(tokenizers / "gpt2_merges.txt")
    GPT2TokenizerFast(vocab=vocabulary, merges=merges, model_max_length=2048).save_pretrained(folder)


def make_diffusion(folder: Path, tokenizers: Path, with_unet: bool) -> None:
    """Stable Diffusion 1.5's parts by configuration."""
    AutoencoderKL(**VAE).half().save_pretrained(folder / "vae")
    scheduler = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    PNDMScheduler(skip_prk_steps=True, **scheduler).save_pretrained(folder / "scheduler")
    tokenizer = clip_tokenizer(tokenizers / "clip_bpe_simple_vocab_16e6.txt.gz")
    tokenizer.save_pretrained(folder / "tokenizer")
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    CLIPTextModel(CLIPTextConfig(**CLIP, vocab_size=len(tokenizer), **marks)).half().save_pretrained(
        folder / "text_encoder"
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    if with_unet:
        unet = unet.half().to_empty(device="cpu")
        fill(unet)
        unet.save_pretrained(folder / "unet")
    else:
        unet.save_config(folder / "unet")
    parts = {
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def clip_tokenizer(published: Path) -> CLIPTokenizer:
    """CLIP's tokenizer from its published merges: bytes, bytes that end a word, merges, two marks."""
    lines = gzip.decompress(published.read_bytes()).decode().split("\n")[1 : CLIP_MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, model_max_length=77)


def byte_letters() -> list[str]:
    """A printable letter for each byte, in GPT-2's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def fill(model: torch.nn.Module) -> None:
    """Random weights of a trained model's size, norms at one, in each parameter's own dtype."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            torch.nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        else:
            torch.nn.init.normal_(parameter, std=0.02)


if __name__ == "__main__":
    main()
