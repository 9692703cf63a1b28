"""The retrain flow: encode what is new, and where there is something new, train and register."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field

from infra.registry import MODEL
from llmdiff.encoder import EncoderConfig
from llmdiff.training.config import TrainSettings
from pipelines.encode import encode_flow
from pipelines.register import register_flow
from pipelines.train import train_flow


@flow(name="retrain")
def retrain_flow(
    data: str,
    store: str,
    diffusion: str,
    llm: str | None = None,
    encoder: Literal["llm", "base"] = "llm",
    name: str = MODEL,
    processes: Annotated[int, Field(ge=1)] = 1,
    encoder_settings: EncoderConfig = EncoderConfig(),
    settings: TrainSettings = TrainSettings(),
    ray: str | None = None,
) -> str:
    """Brings the registry up to date with the data; returns what was done, and why.

    Args:
        data: Parquet shards or an imagefolder, which grows.
        store: folder of the encoding store.
        diffusion: folder or name of the base diffusion model.
        llm: folder or name of the decoder-only LLM.
        encoder: "llm", or "base" for the control.
        name: registered model.
        processes: of training, on this machine.
        encoder_settings: of the LLM's encoder; "base" has none.
        settings: of training: steps, batch size, learning rate, ...
        ray: address of a Ray cluster to encode on, see `pipelines.encode.encode_flow`.
    """
    encoded = encode_flow(data, store, diffusion, llm, encoder, settings=encoder_settings, ray=ray)
    if encoded.samples == 0:
        done = f"nothing to do: all {encoded.rows} rows of {data} are in {store} version {encoded.store_version}"
    else:
        trained = train_flow(
            store, diffusion, None, encoder, encoded.fingerprint, encoded.store_version, processes, settings, llm
        )
        registered = register_flow(trained.adapter, trained.run_id, name, llm=llm)
        done = f"{encoded.samples} new samples: registered {registered.name} version {registered.version}"
    get_run_logger().info(done)
    return done
