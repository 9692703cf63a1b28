"""The configurations of Stable Diffusion 1.x, 2.x and SDXL, as in their folders: single files come without."""

from __future__ import annotations

from typing import Any

from llmdiff.model_files.checkpoint_file import Family

VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
CLIP_L = {
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
OPEN_CLIP_H = {  # without its last layer
    **CLIP_L,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
OPEN_CLIP_BIG_G = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
TOKEN = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
BEGIN, END = {**TOKEN, "content": "<|startoftext|>"}, {**TOKEN, "content": "<|endoftext|>"}
TOKENIZER = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "bos_token": BEGIN,
    "eos_token": END,
    "unk_token": END,
    "pad_token": "<|endoftext|>",
}
FAMILIES: dict[Family, dict[str, dict[str, Any]]] = {
    "sd1": {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": CLIP_L,
        "tokenizer": TOKENIZER,
        "scheduler": {**SCHEDULE, "_class_name": "PNDMScheduler", "skip_prk_steps": True},
    },
    "sd2": {
        "unet": {
            **UNET,
            "sample_size": None,  # set by what the file predicts
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "vae": VAE,
        "text_encoder": OPEN_CLIP_H,
        "tokenizer": {**TOKENIZER, "pad_token": "!"},
        "scheduler": {**SCHEDULE, "_class_name": "DDIMScheduler"},
    },
    "sdxl": {
        "unet": {
            **UNET,
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": CLIP_L,
        "text_encoder_2": OPEN_CLIP_BIG_G,
        "tokenizer": TOKENIZER,
        "tokenizer_2": {**TOKENIZER, "pad_token": "!"},
        "scheduler": {**SCHEDULE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    },
}
"""Each part's configuration by its name; `llmdiff.diffusion.single_file` adds what a file says of itself."""
SIDES = {"epsilon": 64, "v_prediction": 96}
"""Side of the latents that an SD 2.x model was made for, by what it predicts."""
