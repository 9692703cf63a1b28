"""What the nodes for ComfyUI make of prompts, which takes none of ComfyUI's code."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from integrations.comfyui.prompts import MARK, Adapter
from llmdiff import LLMDiffPipeline
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from tests.adapter import tiny

PROMPT = "a small blue square"


def load(folders: dict[str, Path], name: str, llm: str = "llama") -> Adapter:
    def load_llm(name_or_folder: str, settings: EncoderConfig) -> Any:
        return Encoder.from_pretrained(name_or_folder, settings, device="cpu"), lambda: None

    return Adapter.load(folders[name], str(folders[llm]), load_llm)


def clip(folders: dict[str, Path], **besides: Any) -> list[Any]:
    """The base's own conditioning of the prompt."""
    return [[BaseTextEncoder.from_pretrained(str(folders["base"]))([PROMPT])[0].unsqueeze(0), besides]]


@pytest.mark.parametrize("name", ["on-llm", "on-both"])
@pytest.mark.parametrize("text", [PROMPT, ""])
def test_a_context_is_that_of_the_pipeline(folders: dict[str, Path], name: str, text: str) -> None:
    pipe = LLMDiffPipeline.from_pretrained(folders["base"], folders[name], str(folders["llama"]))
    expected = pipe.encode_prompt(text, pipe.device, 1, False)[0][:, :-1]  # the last row is a pipeline's own mark
    features = BaseTextEncoder.from_pretrained(str(folders["base"]))([text])[0].unsqueeze(0)
    adapter = load(folders, name)
    ((context, _),) = adapter.conditioning(text, [[features, {}]] if name == "on-both" else None)
    torch.testing.assert_close(context[:, : expected.shape[1]], expected)
    assert not context[:, expected.shape[1] :].any()
    assert context.shape[1] == (tiny.TOKENS + 20 if name == "on-both" else expected.shape[1])


def test_what_clip_holds_besides_is_kept_and_a_controlnet_gets_its_text(folders: dict[str, Path]) -> None:
    adapter = load(folders, "on-llm")
    ((features, _),) = given = clip(folders, area=(4, 4, 0, 0))
    ((context, besides),) = adapter.conditioning(PROMPT, given)
    assert torch.equal(context, adapter.conditioning(PROMPT)[0][0])
    assert besides == {"area": (4, 4, 0, 0), "cross_attn_controlnet": features, MARK: adapter.checksum}
    assert given[0][1] == {"area": (4, 4, 0, 0)}


def test_what_does_not_fit_is_refused_by_name(folders: dict[str, Path]) -> None:
    adapter = load(folders, "on-both")
    with pytest.raises(ValueError, match="on-both: .* connect CLIP Text Encode of the same text to `clip`"):
        adapter.conditioning(PROMPT)
    with pytest.raises(ValueError, match="found one of an LLMDiff adapter"):
        adapter.conditioning(PROMPT, adapter.conditioning(PROMPT, clip(folders)))
    with pytest.raises(ValueError, match=f"text features are {tiny.WIDTH} wide, found 7"):
        adapter.conditioning(PROMPT, [[torch.zeros(1, tiny.TOKENS, 7), {}]])
    with pytest.raises(ValueError, match="the adapter reads 12 tokens .* found 24"):
        adapter.conditioning(PROMPT, [[torch.zeros(1, 2 * tiny.TOKENS, tiny.WIDTH), {}]])
    with pytest.raises(ValueError, match="expected an adapter on an LLM's encodings"):
        load(folders, "control")
    with pytest.raises(ValueError, match="trained with another encoder"):
        load(folders, "on-llm", "phi")


@pytest.mark.parametrize("field", ["adapter", "llm"])
def test_an_empty_name_is_refused(folders: dict[str, Path], field: str) -> None:
    names = {"adapter": str(folders["on-llm"]), "llm": str(folders["llama"]), field: " "}
    with pytest.raises(ValueError, match=f"{field}: expected a folder or a name on the hub, found nothing"):
        NODE_CLASS_MAPPINGS["LLMDiffLoadAdapter"]().load(**names)


def test_each_node_says_what_it_takes_and_gives() -> None:
    assert NODE_CLASS_MAPPINGS.keys() == NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        names = inspect.signature(getattr(node, node.FUNCTION)).parameters.keys() - {"self"}
        assert names == {name for group in inputs.values() for name in group}
