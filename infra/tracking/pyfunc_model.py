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
from PIL.Image import Image


class AdapterModel(PythonModel):
    """Draw prompts with the base model and the adapter, as `llmdiff generate` does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the base model, the LLM and the adapter, onto the GPU where there is one."""
        from llmdiff.sampling import load_pipeline

        config = context.model_config
        self.pipe = load_pipeline(config["diffusion"], context.artifacts["adapter"], config.get("llm") or None)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a row a prompt: prompt, seed, and the picture's PNG bytes. The next picture has the next seed."""
        from llmdiff.sampling import Sampling, draw, to_images

        options = params or {}
        prompts = [str(prompt) for prompt in model_input.iloc[:, 0]]
        seeds = range(options["seed"], options["seed"] + len(prompts))
        sampling = Sampling(steps=options["steps"], guidance=options["guidance"])
        images = [png(*to_images(pictures)) for pictures in draw(self.pipe, prompts, seeds, sampling, batch_size=1)]
        return pd.DataFrame({"prompt": prompts, "seed": list(seeds), "image": images})


def png(picture: Image) -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


set_model(AdapterModel())
