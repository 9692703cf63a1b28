"""The three nodes: an adapter with its LLM, a prompt's conditioning, and the adapter in a MODEL.

What takes seconds to import is imported when a node first runs: ComfyUI starts as fast as without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .prompts import Adapter, Conditioning

ADAPTER = "LLMDIFF_ADAPTER"


class LoadAdapter:
    """Load an adapter and the LLM that it was trained with; ComfyUI keeps both while they stay in the workflow."""

    RETURN_TYPES = (ADAPTER,)
    RETURN_NAMES = ("adapter",)
    FUNCTION = "load"
    CATEGORY = "LLMDiff"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        name = "its folder on the machine that runs ComfyUI, or its name on the Hugging Face hub"
        return {
            "required": {
                "adapter": ("STRING", {"default": "", "tooltip": f"The adapter: {name}."}),
                "llm": ("STRING", {"default": "", "tooltip": f"The LLM of the adapter's training: {name}."}),
            }
        }

    def load(self, adapter: str, llm: str) -> tuple[Adapter]:
        """Load them; errors as those of `Adapter.load`."""
        from .prompts import Adapter

        return (Adapter.load(name_of("adapter", adapter), name_of("llm", llm)),)


class EncodePrompt:
    """Encode a prompt with the LLM; an empty one stands for no prompt, as in training."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "LLMDiff"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        clip = "The base model's conditioning of the same text: for SDXL, ControlNets and adapters that read CLIP too."
        return {
            "required": {
                "adapter": (ADAPTER,),
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True}),
            },
            "optional": {"clip": ("CONDITIONING", {"tooltip": clip})},
        }

    def encode(self, adapter: Adapter, text: str, clip: Conditioning | None = None) -> tuple[Conditioning]:
        """Encode it; errors as those of `Adapter.conditioning`."""
        return (adapter.conditioning(text, clip),)


class ApplyAdapter:
    """Put an adapter into a MODEL; other nodes' patches stay."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "LLMDiff"
    SCALE: ClassVar[dict[str, Any]] = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        scale = "How much of the adapter: 1 is as trained, 0 the base model's attention alone."
        return {
            "required": {
                "model": ("MODEL",),
                "adapter": (ADAPTER,),
                "scale": ("FLOAT", {**cls.SCALE, "tooltip": scale}),
            }
        }

    def apply(self, model: Any, adapter: Adapter, scale: float) -> tuple[Any]:
        """Patch a clone of it; errors as those of `patched`."""
        from .patch import patched

        return (patched(model, adapter, scale),)


def name_of(what: str, text: str) -> str:
    """Return a folder or a name on the hub as it is meant; ValueError where there is nothing."""
    if not (name := text.strip()):
        raise ValueError(f"{what}: expected a folder or a name on the hub, found nothing")
    return str(Path(name).expanduser()) if name.startswith("~") else name


NODE_CLASS_MAPPINGS = {
    "LLMDiffLoadAdapter": LoadAdapter,
    "LLMDiffEncodePrompt": EncodePrompt,
    "LLMDiffApplyAdapter": ApplyAdapter,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LLMDiffLoadAdapter": "LLMDiff Load Adapter",
    "LLMDiffEncodePrompt": "LLMDiff Encode Prompt",
    "LLMDiffApplyAdapter": "LLMDiff Apply Adapter",
}
