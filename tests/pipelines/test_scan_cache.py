"""What the last scan found holds for the store that it was made for, and for no other one at its path."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmdiff.data.sources import ReadinessPolicy
from pipelines.requests.retrain import RetrainRequest
from storage import EncodingStore
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.conftest import Server, World
from tests.storage import synthetic


def test_a_store_made_anew_is_filled_again(world: World, in_process: Server, tmp_path: Path) -> None:
    from pipelines.flows.retrain import encode_new

    write_parquet(tmp_path / "data" / "a.parquet", [(encoded(picture()), "a red circle")])
    request = RetrainRequest(
        data=str(tmp_path / "data"),
        store=str(tmp_path / "store"),
        diffusion=world.diffusion,
        llm=world.llm,
        readiness=ReadinessPolicy(settle=0.0),
    )
    EncodingStore.create(request.store)
    first = encode_new(request)
    assert (first.samples, encode_new(request).samples) == (1, 0)
    shutil.rmtree(tmp_path / "store")
    store, llm = synthetic.make_store(tmp_path / "store")
    for source in "abc":  # as many versions as the store had that was here before
        synthetic.encode(store, llm, source)
    assert store.version >= first.store_version
    assert encode_new(request).samples == 1
