"""Random histories of a store against a plain model of what must be in it."""

import shutil
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage import EncodingStore, content_hash
from storage.gc import collect, drop
from storage.repair import repair
from tests.storage import children, made

SOURCES = st.sampled_from(["a", "a, edited", "b", "c"])
ENCODERS = st.sampled_from([0, 1])
ROWS = st.integers(1, 20).map(range)


class History(RuleBasedStateMachine):
    """`rows` is the newest version, `versions` all that were kept."""

    @initialize()
    def create(self):
        self.folder = Path(tempfile.mkdtemp())
        self.store = EncodingStore.create(self.folder / "store")
        self.encoders = [self.store.register_fingerprint({**made.LLM, "seed": seed}) for seed in range(2)]
        self.rows: set[tuple[int, str, int]] = set()
        self.versions: dict[int, set[tuple[int, str, int]]] = {0: set()}

    @rule(encoder=ENCODERS, source=SOURCES, rows=ROWS)
    def encode(self, encoder, source, rows):
        made.encode(self.store, self.encoders[encoder], source, rows)
        self.rows |= {(encoder, source, row) for row in rows if row % 7 != 6}
        self.note()

    @rule(encoder=ENCODERS, source=SOURCES, number=st.integers(0, 130))
    def encode_and_be_killed(self, encoder, source, number):
        """Of the source's rows that were not there, all came in, or none."""
        before = self.store.version
        code = children.run(children.die_at_file_operation, self.store.path, self.encoders[encoder], source, number)
        assert code in (0, -signal.SIGKILL)
        if self.store.version > before:
            self.rows |= {(encoder, source, row) for row in range(20) if row % 7 != 6}
        self.note()

    @rule(encoder=ENCODERS, source=SOURCES)
    def forget(self, encoder, source):
        drop(self.store, fingerprint=self.encoders[encoder], source_hash=content_hash(source.encode()))
        self.rows = {row for row in self.rows if row[:2] != (encoder, source)}
        self.note()

    @rule(keep=st.none() | st.lists(st.booleans(), min_size=20, max_size=20))
    def clean(self, keep):
        versions = None if keep is None else [v for v, kept in zip(sorted(self.versions), keep, strict=False) if kept]
        collect(self.store, versions)
        if versions is not None:
            self.versions = {version: self.versions[version] for version in {*versions, self.store.version}}

    @rule(place=st.integers(0, 10**6))
    def damage_and_mend(self, place):
        """One bit of any chunk flips; its rows go, and no others."""
        chunks = sorted(path for path in (self.store.path / "shards").rglob("c/**/*") if path.is_file())
        if not chunks:
            return
        path = chunks[place % len(chunks)]
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1
        path.write_bytes(content)
        problems = self.store.verify()
        lost = repair(self.store, problems).lost.to_pylist()
        names = {content_hash(source.encode()): source for source in ("a", "a, edited", "b", "c")}
        gone = {(self.encoders.index(row["fingerprint"]), names[row["source_hash"]], row["row"]) for row in lost}
        assert gone <= self.rows
        self.rows -= gone
        self.versions = {}  # the older ones may name what is damaged
        self.note()

    @rule()
    def reopen(self):
        self.store = EncodingStore.open(self.store.path)

    def note(self):
        self.versions[self.store.version] = set(self.rows)

    @invariant()
    def shows_what_it_must(self):
        if not hasattr(self, "store"):
            return
        for encoder, fingerprint in enumerate(self.encoders):
            expected = [(f"{s}.parquet", row, made.caption(s, row)) for e, s, row in self.rows if e == encoder]
            assert made.rows_of(self.store, fingerprint) == sorted(expected)
        assert self.store.verify() == []

    def teardown(self):
        if not hasattr(self, "store"):
            return
        for version, rows in self.versions.items():
            old = EncodingStore.open(self.store.path, version=version)
            assert sum(len(made.rows_of(old, fingerprint)) for fingerprint in self.encoders) == len(rows)
            assert old.verify() == []
        shutil.rmtree(self.folder)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=6, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
