"""What commands do before a flow: options are refused at once, for the engine of flows takes seconds to start."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdiff.extras import require
from pipelines.requests.base import checked
from pipelines.requests.data import DataRequest

if TYPE_CHECKING:
    from llmdiff.encoder import EncoderConfig


def encode_options(
    given: dict[str, Any], captions: Path | None, config: Path | None, assignments: Sequence[str]
) -> tuple[EncoderConfig, list[str] | None]:
    """Return the encoder's settings and the captions without pictures; refuse what of data and files can't be used."""
    data = checked({name: given[name] for name in DataRequest.model_fields}, DataRequest, "data")
    from pipelines.cli.config_files import read_settings

    settings = read_settings(config, assignments)
    more = read_lines(captions) if captions is not None else None
    from llmdiff.data.remote import data_path, is_remote
    from llmdiff.data.sources import list_data

    if is_remote(data.data):
        from infra.servers import check_proxies

        check_proxies()
        data_path(data.data)  # the flow lists it, once
    else:
        list_data(data.data, columns=data.columns)
    return encoder_config(config, settings), more


def encoder_config(config: Path | None, settings: dict[str, Any]) -> EncoderConfig:
    """Return the settings as the encoder takes them; raise ValueError naming the file that holds wrong ones."""
    from llmdiff.encoder import EncoderConfig
    from pipelines.cli.config_files import read_settings

    try:
        EncoderConfig.from_dict(read_settings(config))
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error
    return EncoderConfig.from_dict(settings)


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that hold something."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected text, one caption a line")
    from llmdiff.data.sources import read_text

    return [line.strip() for line in read_text(file).split("\n") if line.strip()]


def start_engine(tracking: bool = True) -> None:
    """Make the settings for stages in this process, see `infra.environment`, and ask the servers that they use.

    Prefect's engine is not started here: `pipelines.runtime.stage` does it for the stages that are recorded.

    Args:
        tracking: whether MLflow is one of them.

    Raises:
        ConnectionError: a server that is set does not answer.
        ValueError: a setting of one can't be used.
        ModuleNotFoundError: Prefect is not installed; what the flow would miss on the way to it is in a smaller extra.
    """
    require("prefect")
    from infra.ending import exit_if_ending
    from infra.environment import prepare_engine

    debug = "--debug" in sys.argv
    prepare_engine(debug)
    if debug:
        logging.basicConfig(level=logging.INFO)
    from infra.servers import check_servers

    check_servers(tracking=tracking)
    exit_if_ending()
