"""Ranges of a file that is read ahead."""

from __future__ import annotations

import io

from llmdiff.data.remote.read_ahead import FIRST, LARGEST, ReadAhead


def test_windows_grow_in_sequence_and_jumps_are_small() -> None:
    data, ranges = bytes(range(256)) * 256 * 1024, []

    def fetch(start: int, stop: int) -> bytes:
        ranges.append((start, stop))
        return data[start:stop]

    file = ReadAhead(fetch, len(data))
    read = b"".join(iter(lambda: file.read(FIRST), b""))
    assert read == data
    assert sorted(ranges)[0] == (0, FIRST)
    assert sum(stop - start for start, stop in ranges) == len(data)
    assert max(stop - start for start, stop in ranges) == LARGEST
    ranges.clear()
    for position in (12345, len(data) - 10):
        file.seek(position)
        assert file.read(10) == data[position : position + 10]
    assert ranges == [(12345, 12345 + FIRST), (len(data) - 10, len(data))]
    ranges.clear()
    file.seek(100)
    assert io.BufferedReader(file).read(3 * LARGEST) == data[100 : 100 + 3 * LARGEST]
    assert ranges[0] == (100, 100 + LARGEST)  # not all at once, so that the next is on its way
    assert all(stop - start <= LARGEST for start, stop in ranges)
