"""Files of web servers: what stands for their content, and servers with odd answers."""

from __future__ import annotations

import os

from llmdiff.data.encode import EncoderSet, encode_shard
from llmdiff.data.sources import open_source
from storage import EncodingStore
from tests.data.pictures import write_tar
from tests.data.remote_servers import FileServer
from tests.data.test_listing import PNG


def test_two_files_of_one_tag_are_two(site: FileServer, store: EncodingStore, encoders: EncoderSet) -> None:
    """Tags of nginx and Apache are times and sizes: of two tars that a job wrote in one second they may be equal."""
    site.tags = "time and size"
    for i, word in enumerate(("red", "tan")):
        file = write_tar(site.root / f"{i}.tar", {"0.png": PNG[i], "0.txt": f"a {word} circle"})
        os.utime(file, (1e9, 1e9))
    shards = open_source(f"{site.url}/{{0..1}}.tar?signature=1")
    assert shards[0].file.facts.tag == shards[1].file.facts.tag  # type: ignore[attr-defined]
    assert [encode_shard(store, shard, encoders).samples for shard in shards] == [1, 1]
    signed_anew = open_source(f"{site.url}/{{0..1}}.tar?signature=2")
    assert [shard.content_hash for shard in signed_anew] == [shard.content_hash for shard in shards]
