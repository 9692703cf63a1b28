"""Data sets of the Hugging Face hub: revisions, splits, tokens, refusals."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from llmdiff.data.remote import data_path
from llmdiff.data.sources import list_data, open_source
from tests.data.layouts import PNG
from tests.data.pictures import write_parquet
from tests.data.remote_servers import COMMIT, PAGE, REPO, FileServer


def test_a_split_of_the_hub(site: FileServer) -> None:
    for name in ("train-00000", "train-00001", "test-00000", "validation"):
        write_parquet(site.root / "data" / f"{name}.parquet", [(PNG[0], name)])
    assert len(list((site.root / "data").iterdir())) > PAGE  # so the listing has two pages

    def captions(address: str) -> list[str]:
        return [row.caption for shard in open_source(address) for _, row in shard.rows()]

    assert captions(f"hf:{REPO}:train") == ["train-00000", "train-00001"]
    assert captions(f"hf:{REPO}@main:validation") == ["validation"]
    assert len(captions(f"hf:{REPO}")) == 4
    assert captions(f"hf://datasets/{REPO}@main/data/test-00000.parquet") == ["test-00000"]
    assert len(captions(f"hf://datasets/{REPO}/data")) == 4
    site.card = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/test-*"}]}]}
    assert captions(f"hf:{REPO}:train") == ["test-00000"]
    with pytest.raises(ValueError, match=f"hf://datasets/{REPO}/: expected .* found none in it"):
        open_source(f"hf:{REPO}:val")
    (shard,) = open_source(f"hf://datasets/{REPO}/data/validation.parquet")
    assert shard.content_hash == hashlib.sha256((site.root / "data" / "validation.parquet").read_bytes()).hexdigest()


def test_what_the_hub_refuses_is_told(site: FileServer) -> None:
    with pytest.raises(FileNotFoundError, match="hf:owner/other: no such data set; is it private, and HF_TOKEN not"):
        data_path("hf:owner/other")
    with pytest.raises(FileNotFoundError, match=f"hf:{REPO}@v2: the data set has no such revision"):
        data_path(f"hf:{REPO}@v2")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_data(f"hf://datasets/{REPO}/nothing")


def test_the_token_of_the_hub_goes_to_the_hub_alone(site: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    write_parquet(site.root / "a.parquet", [(PNG[0], "a red circle")])
    (shard,) = open_source(f"hf:{REPO}")
    assert list(shard.rows())
    tokens = {value for headers in site.headers for name, value in headers.items() if name.lower() == "authorization"}
    assert tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in repr(pickle.dumps(shard))
    site.headers.clear()
    open_source(f"{site.url}/a.parquet")
    assert not any(name.lower() == "authorization" for headers in site.headers for name in headers)


def test_the_hubs_address_is_that_of_the_environment(site: FileServer, tmp_path: Path) -> None:
    write_parquet(site.root / "a.parquet", [(PNG[0], "a red circle")])
    code = f"from llmdiff.data.sources import open_source; print(next(open_source('hf:{REPO}')[0].rows())[1].caption)"
    env = {**os.environ, "HF_ENDPOINT": site.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "a red circle\n"


def test_a_hub_that_refuses_a_listing_is_no_json_without_pictures(site: FileServer) -> None:
    """The keys of such a JSON file are pictures' names without endings, which a listing has to complete."""
    (site.root / "sub").mkdir()
    (site.root / "sub" / "1.png").write_bytes(b"")
    (site.root / "metadata.json").write_text('{"sub/1": {"caption": "a red circle"}}')
    address = f"hf://datasets/{REPO}/metadata.json"
    assert open_source(address)[0].count == 1
    site.refused = {f"/api/datasets/{REPO}/tree/{COMMIT}/sub"}
    with pytest.raises(ConnectionError, match="sub"):
        list(open_source(address)[0].rows())
