"""Events that Prefect's server acts on: `infra/prefect.yaml` says what they start."""

from __future__ import annotations

import asyncio
import logging

from prefect.events import Event, Resource
from prefect.settings import PREFECT_API_URL

from infra.service.secrets import redacted

SHARD_ADDED = "llmdiff.shard.added"


def announce_data(address: str, name: str, files: int) -> str:
    """Tell the server of ``PREFECT_API_URL`` that there are new data; return its address once it has taken the event.

    Args:
        address: path or URL of the data, without anything secret in it.
        name: of the file or folder.
        files: how many there are.

    Raises:
        ValueError: no server is named.
        ConnectionError: it does not answer, or refuses.
    """
    server = PREFECT_API_URL.value()
    if not server:
        raise ValueError(
            "PREFECT_API_URL: expected the address of Prefect's server, found none: `make serve` starts one"
        )
    resource = Resource({"prefect.resource.id": f"llmdiff.data.{address}", "prefect.resource.name": name})
    event = Event(event=SHARD_ADDED, resource=resource, payload={"path": address, "files": files})
    logging.getLogger("prefect.events.clients").setLevel("CRITICAL")  # the error below says the same, in one line
    try:
        asyncio.run(_send(event))
    except Exception as error:  # from httpx, websockets or Prefect
        raise ConnectionError(f"{redacted(str(server))}: the event was not taken: {error}") from error
    return redacted(str(server))


async def _send(event: Event) -> None:
    """Wait until the server has it; `emit_event` would leave that to a thread, which says nothing of errors."""
    from prefect.events.clients import get_events_client

    async with get_events_client(reconnection_attempts=2, checkpoint_every=1) as client:
        await client.emit(event)
