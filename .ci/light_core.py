"""Try the light core in an environment that holds llmdiff's wheel and what that asks for, and nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionPipeline

import llmdiff
from kernels.langevin import TokenRows, langevin_step
from llmdiff import Encoder, EncoderConfig, LLMAdapter, LLMDiffPipeline, load_adapter, unload_adapter
from llmdiff.adapter import AdapterSettings
from llmdiff.shapes import DIFFUSION, LLAMA

HEAVY = (
    *("boto3", "crc32c", "deepspeed", "deltalake", "fastapi", "matplotlib", "mlflow", "obstore", "pandas", "prefect"),
    *("psycopg2", "pyarrow", "ray", "scipy", "sklearn", "sqlalchemy", "torchmetrics", "zarr", "zarrs"),
)
CAPTION = "a red circle to the left of a blue square"
SETTINGS = EncoderConfig(dtype="float32")


def check_environment() -> None:
    """Check that llmdiff comes from its wheel, and that nothing is installed that an extra brings."""
    assert "site-packages" in str(llmdiff.__file__)
    assert importlib.metadata.version("llmdiff") == llmdiff.__version__
    assert not (found := [name for name in HEAVY if importlib.util.find_spec(name)]), found


def check_kernel() -> None:
    """Check one Langevin step on the CPU: it adds ``g (plus - minus)``, and nothing for a caption's first token."""
    c, plus, minus = torch.randn(3, 5, 8)
    rows = TokenRows(position=torch.arange(5, dtype=torch.int32), caption=torch.zeros(5, dtype=torch.int64))
    expected = c + 0.5 * (plus - minus) * (rows.position > 0)[:, None]
    torch.testing.assert_close(langevin_step(c.clone(), plus, minus=minus, rows=rows, g=0.5), expected)


def check_encoder() -> Encoder:
    """Check that a caption's encoding has a row for each of its tokens; return the encoder."""
    encoder = Encoder.from_pretrained(LLAMA, SETTINGS)
    (encoding,) = encoder.encode([CAPTION])
    assert encoding.shape[-1] == encoder.hidden_size
    assert encoding.shape[-2] >= len(CAPTION.split())
    assert torch.isfinite(encoding).all()
    return encoder


def load_base() -> StableDiffusionPipeline:
    """Load the embedded Stable Diffusion without an adapter."""
    return StableDiffusionPipeline.from_pretrained(DIFFUSION, safety_checker=None, dtype=torch.float32)


def make_adapter(folder: Path, encoder: Encoder) -> None:
    """Save an adapter of random weights that says it was trained with the encoder."""
    pipe = load_base()
    facts = {"encoding_dim": encoder.hidden_size, "encoder_description": encoder.describe(), "llm": str(LLAMA)}
    adapter = LLMAdapter.for_unet(pipe.unet, AdapterSettings(), base_model=str(DIFFUSION), **facts)
    torch.manual_seed(0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    adapter.save(folder)


def draw(pipe: StableDiffusionPipeline) -> np.ndarray:
    """Draw the same picture each time, in a few steps: ``(height, width, 3)``."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(CAPTION, num_inference_steps=3, generator=generator, output_type="np").images[0]


def check_pictures(adapter: Path, encoder: Encoder) -> None:
    """Check that both ways to load an adapter draw the same picture, and that unloading it restores the pipeline."""
    drawn = draw(LLMDiffPipeline.from_pretrained(DIFFUSION, adapter, LLAMA, safety_checker=None))
    pipe = load_base()
    plain = draw(pipe)
    load_adapter(pipe, adapter, encoder)
    assert drawn.std() > 0
    assert np.array_equal(draw(pipe), drawn)
    assert not np.array_equal(drawn, plain)
    unload_adapter(pipe)
    assert np.array_equal(draw(pipe), plain)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in an empty folder."""
    command = [str(Path(sys.executable).with_name("llmdiff")), *arguments]
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(command, capture_output=True, text=True, cwd=empty)


def check_commands() -> None:
    """Check that help and doctor work, and that a command whose extra is missing says which to install."""
    assert "Start with: llmdiff demo" in run("--help").stdout
    doctor = run("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    for command in (
        ("demo",),
        ("encode", "--data", ".", "--store", "store"),
        ("train", "--store", "store", "--diffusion", str(DIFFUSION)),
        ("generate", "--prompt", CAPTION, "--adapter", "adapter"),
    ):
        done = run(*command)
        expected = "error: this needs Prefect: pip install 'llmdiff[pipelines]'\n"
        assert (done.returncode, done.stderr) == (1, expected), (command, done.stderr)
    assert run("store", "info", "store").stderr == "error: this needs PyArrow: pip install 'llmdiff[store]'\n"


def main() -> None:
    """Run all checks, and print a line for each that passed."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    check_environment()
    print("environment: the light core alone")
    check_kernel()
    print("kernels: a step on the CPU")
    encoder = check_encoder()
    print("Encoder: a caption")
    with tempfile.TemporaryDirectory() as folder:
        make_adapter(Path(folder), encoder)
        check_pictures(Path(folder), encoder)
    print("LLMDiffPipeline, load_adapter, unload_adapter: pictures")
    check_commands()
    print("command line: help, doctor, missing extras")


if __name__ == "__main__":
    main()
