"""A pipeline with an adapter under torch.compile: no graph break, and no graph for each length of a prompt."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from llmdiff import LLMDiffPipeline, load_adapter
from llmdiff.sampling import load_pipeline
from tests.adapter import tiny
from tests.adapter.tiny import PROMPTS, Folders, draw, quiet
from tests.examples import some
from tests.graphs import Graphs


@pytest.fixture(scope="module")
def shallow(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A base of one resolution and its adapters: a quarter of the modules to trace, and every kind of them."""
    root = tmp_path_factory.mktemp("shallow")
    pipe, unet = tiny.pipeline(), tiny.unet(**tiny.SHALLOW)
    pipe.register_modules(unet=unet)
    pipe.save_pretrained(root / "base")
    about = json.loads((folders["on-llm"] / "adapter_config.json").read_text())
    facts = {name: about[name] for name in ("encoder_description", "encoder_fingerprint", "llm")}
    tiny.adapter(unet, facts, new_weight=0.5, copy_original=False).save(root / "on-llm")
    tiny.adapter(unet, facts, new_weight=0.5, base_context="clip").save(root / "on-both")
    return {path.name: path for path in root.iterdir()}


@pytest.mark.xdist_group("torch.compile")
@pytest.mark.parametrize(("adapter", "order"), some([("on-both", "load, compile"), ("on-both", "compile, load")]))
def test_compiles_without_a_graph_break(
    folders: Folders, shallow: Folders, graphs: Graphs, adapter: str, order: str
) -> None:
    options = {"num_inference_steps": 1}
    whole = draw(quiet(LLMDiffPipeline.from_pretrained(shallow["base"], shallow[adapter], folders["llama"])), **options)
    pipe = quiet(StableDiffusionPipeline.from_pretrained(shallow["base"]))
    for step in order.split(", "):
        if step == "load":
            load_adapter(pipe, shallow[adapter], folders["llama"])
        else:
            pipe.unet = torch.compile(pipe.unet, fullgraph=True)
    np.testing.assert_allclose(draw(pipe, **options), whole, atol=1e-5)


@pytest.mark.xdist_group("torch.compile")
def test_compiled_in_place_it_draws_the_same_and_makes_no_graph_for_each_length(
    folders: Folders, shallow: Folders, graphs: Graphs
) -> None:
    models = shallow["base"], shallow["on-llm"], folders["llama"]
    plain, pipe = load_pipeline(*map(str, models)), load_pipeline(*map(str, models), torch_compile=True)
    assert list(pipe.unet.state_dict()) == list(plain.unet.state_dict())
    for prompt in ("a circle", *PROMPTS):
        np.testing.assert_allclose(draw(pipe, prompt), draw(plain, prompt), atol=1e-5)
    assert (graphs.count, graphs.breaks) == (2, [])  # of the U-Net, and of the adapter's hook before it
