"""Random histories of a store against a plain model of what must be in it."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage import EncodingStore, ShardWriter, caption_hash, content_hash
from storage.maintenance.gc import collect, drop
from storage.maintenance.repair import repair
from storage.maintenance.summary import list_shards
from storage.maintenance.verify import verify
from storage.writing.optimize import optimize
from tests.storage import synthetic, writer_process

pytestmark = pytest.mark.process
SOURCES = st.sampled_from(["a", "b", "c"])
ENCODERS = st.sampled_from([0, 1])
ROWS = st.integers(1, 20).map(range)
BITS_COMPARED = 3
"""Encodings compared after each step; at the end all are."""

Key = tuple[int, str, int]
"""Encoder, source as it is now, row."""


class Model(RuleBasedStateMachine):
    """`samples` and `rejects` are what the newest version holds, `versions` the samples of each one that is kept."""

    @initialize()
    def create(self):
        self.folder = Path(tempfile.mkdtemp(dir=os.environ["LLMDIFF_CACHE"]))
        self.path = self.folder / "store"
        self.store = EncodingStore.create(self.path)
        self.encoders = [self.store.register_fingerprint({**synthetic.LLM, "seed": seed}) for seed in range(2)]
        self.edits = dict.fromkeys("abc", 0)
        self.samples: set[Key] = set()
        self.rejects: set[Key] = set()
        self.versions: dict[int, frozenset[Key]] = {0: frozenset()}
        self.pins: dict[int, EncodingStore] = {}
        self.damaged: set[int] = set()

    def now(self, source: str) -> str:
        """A source's content: a new one after each edit."""
        return f"{source}, edited {self.edits[source]} times" if self.edits[source] else source

    def expect(self, encoder: int, source: str, rows: range) -> None:
        self.samples |= {(encoder, source, row) for row in rows if row % 7 != 6}
        self.rejects |= {(encoder, source, row) for row in rows if row % 7 == 6}

    def forget(self, encoders: list[int], source: str | None) -> None:
        for keys in (self.samples, self.rejects):
            keys -= {key for key in keys if key[0] in encoders and source in (None, key[1])}

    def note(self) -> None:
        self.versions[self.store.version] = frozenset(self.samples)

    def names(self, version: int, path: Path) -> bool:
        """Whether a version names the shard that a file is of."""
        shards = list_shards(EncodingStore.open(self.path, version=version))
        return path.relative_to(self.path / "shards").parts[0] in {shard.name for shard in shards}

    def keys_of(self, rows: list[dict]) -> set[Key]:
        names = {content_hash(name.encode()): name for name in self.contents()}
        return {(self.encoders.index(row["fingerprint"]), names[row["source_hash"]], row["row"]) for row in rows}

    def contents(self) -> list[str]:
        """Every content that the sources ever had."""
        edited = [f"{source}, edited {i} times" for source, count in self.edits.items() for i in range(1, count + 1)]
        return [*self.edits, *edited]

    def rejects_found(self) -> set[Key]:
        rejects = self.store.rejects().to_pylist()
        keys = self.keys_of(rejects)
        assert len(keys) == len(rejects), "a row was rejected twice"
        return keys

    def check_rows(self, store: EncodingStore, samples: set[Key] | frozenset[Key]) -> None:
        for encoder, fingerprint in enumerate(self.encoders):
            expected = [(f"{s}.parquet", row, synthetic.caption(s, row)) for e, s, row in samples if e == encoder]
            assert synthetic.rows_of(store, fingerprint) == sorted(expected)

    def check_bits(self, store: EncodingStore, samples: list[Key]) -> None:
        for encoder, fingerprint in enumerate(self.encoders):
            texts = [synthetic.caption(source, row) for e, source, row in samples if e == encoder]
            synthetic.check_encodings(store, fingerprint, texts)


class History(Model):
    """What happens to a store, in any order, and what must hold after each step."""

    # What happens to a store

    @rule(encoder=ENCODERS, source=SOURCES, rows=ROWS)
    def encode(self, encoder, source, rows):
        synthetic.encode(self.store, self.encoders[encoder], self.now(source), rows)
        self.expect(encoder, self.now(source), rows)
        self.note()

    @rule(encoder=ENCODERS, source=SOURCES, rows=ROWS)
    def encode_twice_at_once(self, encoder, source, rows):
        """Two writers take on the same rows; the second one to commit finds them there."""
        fingerprint, name = self.encoders[encoder], self.now(source)
        done = self.store.snapshot().known_rows(fingerprint, content_hash(name.encode()))
        with ShardWriter(self.store, None, fingerprint) as writer:
            for row in sorted({row for row in rows if row % 7 != 6} - done):
                text = synthetic.caption(name, row)
                writer.add_encoding(caption_hash(text), synthetic.encoding(text))
                writer.add_latent(synthetic.latent_key(name, row), synthetic.latent(f"{name}/{row}"))
                writer.add_sample(synthetic.sample(fingerprint, name, row, text))
            synthetic.encode(EncodingStore.open(self.path), fingerprint, name, rows)
            self.expect(encoder, name, rows)
            self.note()
        self.note()

    @rule(encoder=ENCODERS, source=SOURCES, number=st.integers(0, 200))
    def encode_and_be_killed(self, encoder, source, number):
        """All of the source's rows that were not there came in, or none; its rejects come in before them."""
        version, name, expected = self.store.version, self.now(source), (self.samples.copy(), self.rejects.copy())
        code = writer_process.run(writer_process.die_at_file_operation, self.path, self.encoders[encoder], name, number)
        assert code in (0, -signal.SIGKILL)
        self.expect(encoder, name, range(20))
        if self.store.version == version and code != 0:
            self.samples = expected[0]
            if self.rejects_found() != self.rejects:
                self.rejects = expected[1]
        self.note()

    @rule(encoder=ENCODERS)
    def die_with_data_on_the_disk(self, encoder):
        code = writer_process.run(writer_process.die_while_writing, self.path, self.encoders[encoder], "lost")
        assert code == -signal.SIGKILL

    @rule(encoder=ENCODERS, source=SOURCES, rows=ROWS)
    def edit(self, encoder, source, rows):
        """A source's captions change: it is encoded again, and what was encoded of it before is dropped."""
        before = self.now(source)
        self.edits[source] += 1
        synthetic.encode(self.store, self.encoders[encoder], self.now(source), rows)
        self.expect(encoder, self.now(source), rows)
        self.note()
        drop(self.store, source_hash=content_hash(before.encode()))
        self.forget([0, 1], before)
        self.note()

    @rule(encoder=ENCODERS, source=st.none() | SOURCES)
    def drop(self, encoder, source):
        name = None if source is None else self.now(source)
        of_source = None if name is None else content_hash(name.encode())
        drop(self.store, fingerprint=self.encoders[encoder], source_hash=of_source)
        self.forget([encoder], name)
        self.note()

    @rule()
    def optimize(self):
        """Another version of the same rows."""
        optimize(self.store)
        self.note()
        assert [table.merged for table in optimize(self.store, dry_run=True)] == [0, 0, 0]

    @rule(number=st.integers(0, 150))
    def optimize_and_be_killed(self, number):
        code = writer_process.run(writer_process.die_while_optimizing, self.path, number)
        assert code in (0, -signal.SIGKILL)
        self.note()

    @rule()
    def pin(self):
        self.pins[self.store.version] = EncodingStore.open(self.path, version=self.store.version)

    @rule(keep=st.none() | st.lists(st.booleans(), min_size=40, max_size=40))
    def collect(self, keep):
        """Pinned versions are kept, and some of the others, or all."""
        versions = None
        if keep is not None:
            versions = {v for v, kept in zip(sorted(self.versions), keep, strict=False) if kept} | self.pins.keys()
            self.versions = {version: self.versions[version] for version in versions | {self.store.version}}
        planned = collect(self.store, versions, dry_run=True)
        assert collect(self.store, versions) == planned
        assert collect(self.store, versions).paths == ()

    @rule(place=st.integers(0, 10**6), again=st.booleans())
    def damage_and_repair(self, place, again):
        """One bit of any chunk flips: rows go that used it, and no others; encoding again makes those and no others."""
        chunks = sorted(path for path in (self.path / "shards").rglob("c/**/*") if path.is_file())
        if not chunks:
            return
        path = chunks[place % len(chunks)]
        self.damaged |= {version for version in self.versions if self.names(version, path)}
        flip_bit(path, place)
        problems = verify(self.store)
        assert bool(problems) == (self.store.version in self.damaged)
        lost = self.keys_of(repair(self.store, problems).lost.to_pylist())
        parts = {part for problem in problems for part in (*problem.encodings, *problem.latents)}
        for encoder, source, row in lost:
            encoding = self.encoders[encoder], caption_hash(synthetic.caption(source, row))
            assert encoding in parts or synthetic.latent_key(source, row) in parts
        assert lost <= self.samples
        self.samples -= lost
        self.note()
        for encoder, source in {key[:2] for key in lost if again}:
            rows = [row for *of, row in sorted(self.samples | lost) if of == [encoder, source]]
            anew = synthetic.encode(self.store, self.encoders[encoder], source, rows)
            assert anew == len([key for key in lost if key[:2] == (encoder, source)])
            self.samples |= {(encoder, source, row) for row in rows}
            self.note()

    @rule()
    def reopen(self):
        self.store = EncodingStore.open(self.path)

    # What must hold

    @invariant()
    def shows_what_it_must(self):
        if not hasattr(self, "store"):
            return
        assert verify(self.store) == []
        self.check_rows(self.store, self.samples)
        assert self.rejects_found() == self.rejects
        self.check_bits(
            self.store, sorted(self.samples, key=lambda key: content_hash(repr(key).encode()))[:BITS_COMPARED]
        )
        for version, store in self.pins.items():
            assert store.version == version
            self.check_rows(store, self.versions[version])

    def teardown(self):
        if not hasattr(self, "store"):
            return
        self.check_bits(self.store, sorted(self.samples))
        for version, samples in self.versions.items():
            old = self.pins.get(version) or EncodingStore.open(self.path, version=version)
            self.check_rows(old, samples)
            if version not in self.damaged:
                assert verify(old) == []
        shutil.rmtree(self.folder)


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=8, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
