"""LLMDiff's nodes for ComfyUI: link or copy this folder into ComfyUI's ``custom_nodes``, and install llmdiff.

Imports are relative, for ComfyUI loads the folder under a name of its own.
"""

from llmdiff import __version__  # ComfyUI says as it starts where llmdiff is missing

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "__version__"]
