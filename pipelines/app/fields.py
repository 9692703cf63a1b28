"""The fields that say what is drawn, which several tabs read: the models, and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from llmdiff.sampling import SCHEDULERS
from pipelines.app.sources import Choices
from pipelines.requests.base import checked, help_of
from pipelines.requests.generate import GenerateRequest

OWN_SCHEDULER = "the base model's own"
RECORDED = "as recorded"
"""Choice that stands for the LLM or the base model that was recorded with the adapter."""


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """Fields of the models: adapter, LLM and base model; and the store."""

    adapter: gr.Dropdown
    llm: gr.Dropdown
    diffusion: gr.Dropdown

    @classmethod
    def build(cls) -> ModelFields:
        """Make the fields in the open Gradio block."""
        with gr.Row():
            adapter = gr.Dropdown(label="Adapter", allow_custom_value=True, scale=3, min_width=320, elem_id="adapter")
            llm = gr.Dropdown(label="LLM", allow_custom_value=True, scale=2)
            diffusion = gr.Dropdown(label="Base model", allow_custom_value=True, scale=2)
        return cls(adapter=adapter, llm=llm, diffusion=diffusion)

    @property
    def all(self) -> list[Any]:
        """Return all fields, in the order that `request_of` reads."""
        return [self.adapter, self.llm, self.diffusion]


@dataclass(frozen=True, kw_only=True)
class DrawFields:
    """Fields of what is drawn, and how."""

    prompts: gr.Textbox
    negative: gr.Textbox
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    scale: gr.Slider
    scheduler: gr.Dropdown

    @classmethod
    def build(cls) -> DrawFields:
        """Make the fields in the open Gradio block, with the defaults of `llmdiff generate`."""
        fields = GenerateRequest.model_fields
        about = {name: help_of(info) for name, info in fields.items()}
        example = "a red circle to the left of a blue square"
        prompts = gr.Textbox(example, label="Prompts, one a line", lines=2, max_lines=12, elem_id="prompts")
        negative = gr.Textbox(label="Negative prompt", info=about["negative"])
        with gr.Row():
            seed = gr.Number(fields["seed"].default, label="Seed", precision=0, elem_id="seed", min_width=80)
            steps = gr.Slider(1, 100, fields["steps"].default, step=1, label="Steps", elem_id="steps", min_width=120)
        guidance = gr.Slider(0, 20, fields["guidance"].default, step=0.1, label="Guidance", info=about["guidance"])
        scale = gr.Slider(0, 1, fields["scale"].default, step=0.05, label="Adapter scale", info=about["scale"])
        scheduler = gr.Dropdown([OWN_SCHEDULER, *SCHEDULERS], label="Scheduler")
        return cls(
            prompts=prompts,
            negative=negative,
            seed=seed,
            steps=steps,
            guidance=guidance,
            scale=scale,
            scheduler=scheduler,
        )

    @property
    def all(self) -> list[Any]:
        """Return all fields, in the order that `request_of` reads."""
        return [self.prompts, self.negative, self.seed, self.steps, self.guidance, self.scale, self.scheduler]


def request_of(values: Sequence[Any]) -> GenerateRequest:
    """Return the request of all fields' values, of models and of drawing; ValueError in one line for wrong ones."""
    adapter, llm, diffusion, prompts, negative, seed, steps, guidance, scale, scheduler = values
    if not adapter:
        raise ValueError("adapter: expected a folder or a version, found none; `llmdiff demo` trains a first one")
    given = {
        "adapter": adapter,
        "llm": None if llm in (None, "", RECORDED) else llm,
        "diffusion": None if diffusion in (None, "", RECORDED) else diffusion,
        "prompts": [line.strip() for line in (prompts or "").splitlines() if line.strip()],
        "negative": negative or "",
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "scale": scale,
        "scheduler": None if scheduler in (None, "", OWN_SCHEDULER) else scheduler,
    }
    return checked(given, GenerateRequest, "generate")


def filled(found: Choices, asked_llm: str | None, asked_base: str | None) -> list[Any]:
    """Return the updates of `ModelFields` from what there is to choose among."""
    return [
        gr.update(choices=found.adapters, value=found.adapters[0] if found.adapters else None),
        gr.update(choices=[RECORDED, *found.llms], value=asked_llm or RECORDED),
        gr.update(choices=[RECORDED, *found.bases], value=asked_base or RECORDED),
    ]
