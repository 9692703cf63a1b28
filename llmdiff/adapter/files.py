"""An adapter's folder: weights, configuration, and the manifest of both, which is written last."""

from __future__ import annotations

import os
from pathlib import Path

from llmdiff.adapter.config import CONFIG, WEIGHTS, AdapterConfig, read_config
from llmdiff.model_files.manifest import check_files, write_manifest
from llmdiff.model_files.safetensors_files import check_safetensors, tensor_shapes

FILES = (WEIGHTS, CONFIG)


def write_files(folder: Path, weights: bytes, config: AdapterConfig) -> None:
    """Write an adapter's folder; one that was cut short over an older adapter is later refused as damaged."""
    from storage.io.files import write_file  # late: only writing needs the store's packages

    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / WEIGHTS, weights)
    write_file(folder / CONFIG, config_bytes(config))
    write_manifest(folder, FILES)


def config_bytes(config: AdapterConfig) -> bytes:
    """Return the content of ``adapter_config.json``."""
    return f"{config.model_dump_json(indent=2)}\n".encode()


def check_adapter(folder: str | os.PathLike[str]) -> AdapterConfig:
    """Return the configuration of an adapter whose files are whole and belong together; errors as `check_whole`."""
    check_whole(folder)
    config = read_config(folder)
    check_widths(Path(folder), config)
    return config


def check_whole(folder: str | os.PathLike[str]) -> bool:
    """Raise an error that names the file where an adapter's files are not as they were written.

    Returns:
        Whether there is a manifest. Earlier versions wrote none: then the weights are as long as their header says.

    Raises:
        FileNotFoundError: no weights or no configuration.
        ValueError: a file is damaged.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: not found; expected an adapter folder with {CONFIG} and {WEIGHTS}"
            )
    listed = check_files(folder, FILES)
    if not listed:
        check_safetensors(folder / WEIGHTS)
    return listed


def check_widths(folder: Path, config: AdapterConfig) -> None:
    """Raise ValueError where the configuration's widths are not those of the weights."""
    found = tensor_shapes(folder / WEIGHTS).get("phi.linear.weight")
    expected = (config.context_dim, config.encoding_dim)
    if found is not None and found != expected:
        raise ValueError(
            f"{folder / CONFIG}: context_dim and encoding_dim {expected}, but {WEIGHTS} has a projection of {found}"
        )
