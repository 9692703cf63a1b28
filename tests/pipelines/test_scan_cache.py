"""What the last scan found holds for the store that it was made for, and for no other one at its path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llmdiff.data.sources import ReadinessPolicy
from llmdiff.encoder import EncoderConfig
from pipelines.requests.encode import EncodeRequest
from pipelines.requests.retrain import RetrainRequest
from pipelines.runtime.encode.scan_cache import RUN_ONLY, scan_cache_path
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
    for name in ("buckets", "flip"):
        with pytest.raises(ValueError, match="latents are of another kind"):  # the run looked into the store
            encode_new(request.model_copy(update={name: True}))
    shutil.rmtree(tmp_path / "store")
    store, llm = synthetic.make_store(tmp_path / "store")
    for source in "abc":  # as many versions as the store had that was here before
        synthetic.encode(store, llm, source)
    assert store.version >= first.store_version
    assert encode_new(request).samples == 1


OTHERS: dict[str, Any] = {
    "data": "s3://photos/new",
    "store": "elsewhere",
    "diffusion": "another/base",
    "llm": "another/llm",
    "encoder": "base",
    "size": 256,
    "settings": EncoderConfig(max_tokens=5),
    "captions": ["a red circle"],
    "min_side": 100,
    "vae_dtype": "bfloat16",
    "bucket_step": 32,
    "flip": True,
    "allow_private_addresses": True,
    "caption_columns": ["title"],
    "image_column": "jpg",
    "every_caption": True,
    "caption_lines": True,
}
"""Another value than `asked` has for each of the fields that decide what a run writes."""


@pytest.fixture
def asked() -> EncodeRequest:
    return EncodeRequest(data="s3://photos", store="store", diffusion="base", llm="llm", buckets=True)


def test_every_field_that_decides_what_is_written_asks_for_a_scan_of_its_own(asked: EncodeRequest) -> None:
    """Whatever field the request gets: it is one of these, or named as one of the run alone."""
    assert {*OTHERS, "buckets", *RUN_ONLY} == set(EncodeRequest.model_fields)
    others = [asked.model_copy(update={name: value}) for name, value in OTHERS.items()]
    paths = [scan_cache_path(each) for each in (asked, asked.model_copy(update={"buckets": False}), *others)]
    assert len(set(paths)) == len(paths)


def test_how_a_run_goes_asks_for_no_scan(asked: EncodeRequest) -> None:
    of_run = {"vae_batch": 2, "processes": 2, "ray": "auto", "limit": "gpu", "readiness": ReadinessPolicy()}
    of_run |= {"device_map": "auto", "attention": "eager", "torch_compile": True, "channels_last": True}
    assert of_run.keys() == RUN_ONLY
    assert scan_cache_path(asked.model_copy(update=of_run)) == scan_cache_path(asked)
