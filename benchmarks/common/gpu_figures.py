"""What was measured on a GPU, and what the pages say of it: speeds where there are rows, else that none was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.measured import rows_of
from common.peaks import published_peak
from common.words import number

NONE = "No figure of speed was measured on a GPU."
TRAINING = "bf16, batch 32, without checkpointing"
SHAPES = {"Phi-1.5": "phi-1.5", "Vicuna-7B": "vicuna-7b"}


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Shares of the published peak that were reached on one kind of GPU; what has no row is missing."""

    device: str
    peak: float
    """Peak in TFLOP/s in bfloat16; it is half of that in TF32."""
    of: Mapping[str, float]
    """Share of the peak by what reached it: `training`, `autoencoder`, and the LLMs by name."""


def gpu_row(file: str, device: str | None = None, **keys: str) -> dict[str, str] | None:
    """Return the newest row of a GPU, or of this GPU, that has these values; a value may be the end of a field."""
    found = [row for row in rows_of(file) if is_gpu(row["device"]) and device in (None, row["device"])]
    found = [row for row in found if all(row[name].endswith(value) for name, value in keys.items())]
    return found[-1] if found else None


def is_gpu(device: str) -> bool:
    """Return whether a row's device is a GPU: a CPU's name ends with its threads."""
    return not device.endswith("thread(s)")


def shares(training_tflop: float, vae_tflop: float, llm_tflop: Mapping[str, float]) -> Shares | None:
    """Return the shares on the GPU of the newest training row, from operations counted; None where there is none."""
    row = gpu_row("train.csv", what="images a second", setting=TRAINING)
    if row is None or (peak := published_peak(row["device"])) is None:
        return None
    device = row["device"]
    found = {"training": float(row["value"]) * training_tflop / peak}
    if vae := gpu_row("autoencoder.csv", device, model="SD 1.5", dtype="tf32"):
        found["autoencoder"] = float(vae["pictures_per_s"]) * vae_tflop / (peak / 2)
    for name, tflop in llm_tflop.items():
        if row := gpu_row("encode.csv", device, shape=SHAPES[name], word_path="block", reading="score"):
            found[name] = float(row["tokens"]) * tflop / float(row["plain_p50_s"]) / peak
    return Shares(device=device, peak=peak, of=found)


def sentence() -> str:
    """Return what the pages say of a GPU's speed."""
    if (training := gpu_row("train.csv", what="images a second", setting=TRAINING)) is None:
        return NONE
    parts = [f"training takes {number(float(training['value']))} pictures of 512² a second (batch 32)"]
    if row := gpu_row("autoencoder.csv", training["device"], model="SD 1.5", dtype="tf32"):
        parts.append(f"the autoencoder {number(float(row['pictures_per_s']))} (TF32)")
    for name, shape in SHAPES.items():
        if row := gpu_row("encode.csv", training["device"], shape=shape, word_path="block", reading="score"):
            parts.append(f"{name} encodes {number(float(row['captions_per_s']))} captions a second")
    return f"Measured on one {training['device']}, random weights in the real shapes: {', '.join(parts)}."


def basis(found: Shares | None, assumed: float) -> str:
    """Return in words what speeds follow from."""
    if found is None:
        return f"{assumed:g} of the peak, assumed"
    return "as measured" if len(found.of) > 2 else f"as measured, and {assumed:g} of the peak where there is no row"
