"""The embedded base: a small `UNet2DConditionModel` and `CLIPTextModel`, trained together on one caption template.

The text encoder starts alone, as the denoiser's answer to pure noise: the mean latent that a caption leaves possible.
Then both train as latent diffusion. The U-Net learns to draw, bind and place; the text side understands that template
and no other wording.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from llmdiff.sampling import Sampling, draw, to_uint8
from llmdiff.shapes.captions import WORDINGS, caption
from llmdiff.shapes.evaluator import score_facts
from llmdiff.shapes.pretrain.common import fast_cpu_math, save_fp16, train, write_card
from llmdiff.shapes.render import render_scene
from llmdiff.shapes.scene import sample_scene
from llmdiff.shapes.shards import random_scene

SEED, BATCH, POOL, DROPOUT = 0, 32, 30000, 0.1
STEPS, SCHEDULE_STEPS = 6000, 15000  # training stops in mid-cosine, once the rule-based evaluator is satisfied
TEXT_STEPS, TEXT_BATCH = 2500, 128
TEXT_LENGTH, WIDTH = 40, 128  # tokens, hidden


def pretrain_base(folder: Path, steps: int = STEPS, pool: int = POOL) -> None:
    """Train U-Net and text encoder on the latents of ``folder/vae`` and complete the Stable Diffusion folder."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED + 2)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    tokenizer = train_clip_tokenizer(np.random.default_rng(SEED))
    latents, tokens = make_pool(rng, vae, tokenizer, pool)
    null = tokenizer("", padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids
    text_encoder, unet, scheduler = build_text_encoder(tokenizer), build_unet(), build_scheduler()
    pretrain_text_encoder(text_encoder, latents, tokens, rng, min(TEXT_STEPS, steps))
    pipe = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )

    def loss_of(step: int) -> torch.Tensor:
        rows = torch.from_numpy(rng.integers(len(latents), size=BATCH))
        x, ids = latents[rows], tokens[rows]
        ids = torch.where(torch.rand(BATCH, 1) < DROPOUT, null, ids)
        noise = torch.randn_like(x)
        t = (1000 * torch.rand(BATCH).sqrt()).long()  # prefers noisy steps, where the text decides
        with fast_cpu_math():
            context = text_encoder(ids).last_hidden_state
            predicted = unet(scheduler.add_noise(x, noise, t), t, context).sample
        return (predicted.float() - scheduler.get_velocity(x, noise, t)).square().mean()

    verdicts: dict[str, dict[str, float]] = {}

    def evaluate_at(step: int) -> None:
        verdicts[str(step)] = score_template(pipe)
        print(f"\nafter {step} steps, two things, held-out pairs, own template: {verdicts[str(step)]}", flush=True)
        save(pipe, folder)

    parameters = [*unet.parameters(), *text_encoder.parameters()]
    options: dict[str, Any] = {
        "ema_decay": 0.9995,
        "schedule_steps": max(steps, SCHEDULE_STEPS),
        "checkpoint": evaluate_at,
    }
    figures = train("base", parameters, loss_of, steps, 8e-4, **options)
    evaluate_at(steps)
    write_cards(folder, pool, {**figures, "own_template": verdicts})


def write_cards(folder: Path, pool: int, figures: dict[str, Any]) -> None:
    """Write the cards of U-Net and text encoder, which trained together."""
    facts = {
        "data": f"{pool} drawn scenes of one to three things with captions of one template, none with a held-out pair",
        "command": "python -m llmdiff.shapes.pretrain base",
        "seed": SEED,
        "batch": BATCH,
        "figures": figures,
    }
    write_card(folder / "unet", **facts)
    write_card(folder / "text_encoder", **facts)


def pretrain_text_encoder(
    text_encoder: CLIPTextModel, latents: torch.Tensor, tokens: torch.Tensor, rng: np.random.Generator, steps: int
) -> None:
    """Regress the latents from the last position's feature with a linear layer that is then thrown away."""
    head = torch.nn.Linear(WIDTH, latents[0].numel())

    def loss_of(step: int) -> torch.Tensor:
        rows = torch.from_numpy(rng.integers(len(latents), size=TEXT_BATCH))
        with fast_cpu_math():
            predicted = head(text_encoder(tokens[rows]).last_hidden_state[:, -1])
        return (predicted.float() - latents[rows].flatten(1)).square().mean()

    train("text", [*text_encoder.parameters(), *head.parameters()], loss_of, steps, 1e-3)


def build_scheduler() -> DDIMScheduler:
    """Build the noise schedule that the base is trained and sampled with."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_unet() -> UNet2DConditionModel:
    """Build a U-Net of six million parameters with cross-attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(96, 144),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a text encoder of three small CLIP layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_clip_tokenizer(rng: np.random.Generator) -> CLIPTokenizer:
    """Train a CLIP byte-pair encoding over captions in every wording; meaning is yet to learn."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    captions = (caption(random_scene(rng), wording, rng) for _ in range(1500) for wording in WORDINGS)
    trained.train_from_iterator(captions, trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {**model["vocab"]}
    for symbol in pre_tokenizers.ByteLevel.alphabet():
        vocabulary.setdefault(f"{symbol}</w>", len(vocabulary))
    return CLIPTokenizer(vocabulary, [tuple(pair) for pair in model["merges"]], model_max_length=TEXT_LENGTH)


@torch.no_grad()
def make_pool(
    rng: np.random.Generator, vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scaled latents ``(scene, 4, 8, 8)`` float32 and template tokens ``(scene, token)`` of `count` scenes."""
    latents, captions = [], []
    for start in range(0, count, 500):
        scenes = [random_scene(rng) for _ in range(min(500, count - start))]
        pictures = torch.from_numpy(np.stack([render_scene(scene) for scene in scenes])).permute(0, 3, 1, 2)
        with fast_cpu_math():
            x = vae.encode(pictures.float() / 127.5 - 1).latent_dist.mean
        latents.append(x.float() * vae.config.scaling_factor)
        captions += [caption(scene, "template", rng) for scene in scenes]
    batch = tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    return torch.cat(latents), batch.input_ids


@torch.no_grad()
def score_template(pipe: StableDiffusionPipeline, count: int = 96) -> dict[str, float]:
    """Return the share of facts that hold in pictures of held-out two-thing scenes, in the base's own template."""
    rng = np.random.default_rng(99)
    scenes = [sample_scene(rng, 2, held_out=True) for _ in range(count)]
    prompts = [caption(scene, "template", rng) for scene in scenes]
    pipe.set_progress_bar_config(disable=True)
    with fast_cpu_math():
        (pictures,) = draw(pipe, prompts, range(count), Sampling(), batch_size=count)
    verdicts = score_facts(list(to_uint8(pictures)), scenes)
    return {fact: round(float(values.mean()), 3) for fact, values in verdicts.items()}


def save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write the Stable Diffusion folder around the autoencoder that is there already, weights in fp16."""
    save_fp16(pipe.unet, folder / "unet")
    save_fp16(pipe.text_encoder, folder / "text_encoder")
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    pipe.scheduler.save_pretrained(folder / "scheduler")
    pipe.save_config(folder)
