"""What each setting of the encoder does and what it costs, for people: `llmdiff encode --help` and the README.

Apart from `llmdiff.encoder.config`, which brings torch: help answers at once.
"""

from __future__ import annotations

ENCODER_SETTINGS = {
    "word_path": "block (default): the word alone through each block; 1/12 of a forward pass more for parallel blocks "
    "(Phi), 3/4 more for sequential ones (Llama). isolated: a table once per LLM, vocabulary x width x 4 bytes on "
    "disk, and then next to nothing",
    "g": "step size: a number, one a block, or constant, linear, cosine, ddpm; free",
    "h": "noise level, given like g, with noise fresh or cached",
    "bands": "sums over so many depth bands, which training weights; the store grows by the factor",
    "initial": "c_T: embedding (default), zeros or noise; free",
    "noise": "off (default). fresh: drawn anew at each training step, free. cached: drawn for every block into the "
    "encoding; on a CPU that can take longer than the scores themselves",
    "seed": "of all noise",
    "max_tokens": "longer captions are cut, counted and reported; cost and storage grow with the tokens",
    "append_eos": "ends each caption with EOS, where the last word's meaning is; one token a caption",
    "template": "text around {caption}; its tokens are encoded and stored with every caption",
    "dtype": "of the LLM's pass; float32 takes twice the memory of bfloat16 (default); the sum is always float32",
    "token_budget": "tokens in a batch, the memory that a pass takes; halved when memory runs out",
}


def settings_help() -> str:
    """The settings as the end of a command's help."""
    lines = [f"{name}: {text}." for name, text in ENCODER_SETTINGS.items()]
    return "Encoder settings, for --config and --set.\n\n" + "\n\n".join(lines)
