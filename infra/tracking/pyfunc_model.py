"""The MLflow model of an adapter: prompts in, pictures out. MLflow stores this file, and runs it to load a version.

Base model and LLM stay where they are; the model's configuration names them:
``mlflow.pyfunc.load_model(uri, model_config={"diffusion": ..., "llm": ...})`` names others.
"""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class AdapterModel(PythonModel):
    """Draws prompts with the base model and the adapter, as `llmdiff generate` does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the base model, the LLM and the adapter, onto the GPU where there is one."""
        import torch

        from llmdiff.pipeline import LLMDiffPipeline

        adapter, config = context.artifacts["adapter"], context.model_config
        base, llm = config["diffusion"], config.get("llm") or None
        pipe = LLMDiffPipeline.from_pretrained(base, adapter, llm, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a prompt: prompt, seed, and the picture's PNG bytes. The next picture has the next seed."""
        options = params or {}
        prompts = [str(prompt) for prompt in model_input.iloc[:, 0]]
        seeds = range(options["seed"], options["seed"] + len(prompts))
        images = [self.draw(prompt, seed, options) for prompt, seed in zip(prompts, seeds, strict=True)]
        return pd.DataFrame({"prompt": prompts, "seed": list(seeds), "image": images})

    def draw(self, prompt: str, seed: int, options: dict[str, Any]) -> bytes:
        """One picture, as a PNG file; its noise is from the CPU, so that a seed means the same on every device."""
        import torch

        drawn = self.pipe(
            prompt,
            num_inference_steps=options["steps"],
            guidance_scale=options["guidance"],
            generator=torch.Generator().manual_seed(seed),
        )
        file = io.BytesIO()
        drawn.images[0].save(file, "PNG")
        return file.getvalue()


set_model(AdapterModel())
