"""Settings that suit the synthetic shapes benchmark: of the demonstration, of studies, and of a first retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmdiff.adapter.config import AdapterSettings
from llmdiff.encoder import EncoderConfig
from llmdiff.sampling import Sampling
from llmdiff.shapes import DIFFUSION, LLAMA
from llmdiff.shapes.captions import PROMPT
from llmdiff.training.config import TrainSettings

SAMPLING = Sampling(steps=12, guidance=2.5)  # the evaluator finds no more in pictures of 20 steps
TRAINING = TrainSettings(
    steps=1000,
    batch_size=16,
    learning_rate=2.5e-3,
    warmup=50,
    ema_decay=0.99,
    grad_clip=0.25,  # the norm is 0.2 but for spikes, which at this rate cost what was learned
    timestep_exponent=0.75,
    checkpoint_every=500,
    adapter=AdapterSettings(new_weight=1.0),
)
ENCODER = EncoderConfig(template=PROMPT)
PROCESSES = 2
FIRST_STEPS = 300


def retraining(data: Path) -> dict[str, Any]:
    """Return the parameters of the flow `retrain` on drawn data, as in JSON; the store lies beside the data."""
    return {
        "data": str(data.resolve()),
        "store": str(data.resolve().with_name("store")),
        "diffusion": str(DIFFUSION),
        "llm": str(LLAMA),
        "processes": PROCESSES,
        "encoder_settings": {"template": PROMPT},
        "settings": {**TRAINING.model_dump(mode="json", exclude_unset=True), "steps": FIRST_STEPS},
    }
