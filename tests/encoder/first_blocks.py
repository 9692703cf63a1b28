"""A real Llama's first blocks: its weights, its vocabulary and its tokenizer as they are, of a file or of a folder."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

ALIGNMENT = 32
"""Where a GGUF file's data begin, and each tensor's; its own where a file names none."""


def cut_gguf(file: Path, blocks: int, target: Path) -> Path:
    """Write a file's first blocks as a file; of the rest every byte is as it was, but for counts and offsets."""
    data = file.read_bytes()
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    at = of_keys = data.index(_text("token_embd.weight"))  # the first tensor's, after all keys
    infos = []  # (name, what is said of it, where its data begin)
    for _ in range(tensors):
        end = at + 8 + struct.unpack_from("<Q", data, at)[0]
        end_of_shape = end + 4 + 8 * struct.unpack_from("<I", data, end)[0] + 4  # its rank, its sizes, its type
        (offset,) = struct.unpack_from("<Q", data, end_of_shape)
        infos.append((data[at + 8 : end].decode(), data[at:end_of_shape], offset))
        at = end_of_shape + 8
    contents = memoryview(data)[-(-at // ALIGNMENT) * ALIGNMENT :]
    ends = [offset for _, _, offset in infos[1:]] + [len(contents)]
    said, kept, count = b"", bytearray(), 0
    for (name, info, offset), end in zip(infos, ends, strict=True):
        if _is_kept(name, r"blk\.(\d+)\.", blocks):
            said += info + struct.pack("<Q", len(kept))
            kept += contents[offset:end]
            count += 1
    values = bytearray(data[24:of_keys])
    number = values.index(_text("llama.block_count")) + len(_text("llama.block_count")) + 4  # after its type
    values[number : number + 4] = struct.pack("<I", blocks)
    head = data[:8] + struct.pack("<QQ", count, keys) + values + said
    target.write_bytes(head + bytes(-len(head) % ALIGNMENT) + kept)
    return target


def cut_folder(folder: Path, blocks: int, target: Path) -> Path:
    """Write a folder's first blocks as a folder."""
    ignored = shutil.ignore_patterns("gguf", "*.safetensors")
    shutil.copytree(folder, target, ignore=ignored)
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = blocks
    (target / "config.json").write_text(json.dumps(config))
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kept = [name for name in weights.offset_keys() if _is_kept(name, r"model\.layers\.(\d+)\.", blocks)]
        save_file({name: weights.get_tensor(name) for name in kept}, target / "model.safetensors", {"format": "pt"})
    return target


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _is_kept(name: str, of_block: str, blocks: int) -> bool:
    found = re.match(of_block, name)
    return found is None or int(found[1]) < blocks
