"""Numbers for the values of dictionary columns, the same in all batches of a stream."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Names:
    """Distinct texts, numbered from 0 in the order in which they came."""

    def __init__(self, values: list[str] | None = None) -> None:
        self.values = values or []
        self._known = pa.array(self.values, pa.string())

    def __len__(self) -> int:
        return len(self.values)

    def numbers(self, column: pa.DictionaryArray) -> np.ndarray:
        """Return the number of each row's text, int64 ``(n,)``; a column without nulls."""
        places = column.indices.to_numpy()
        used = np.flatnonzero(np.bincount(places))
        texts = column.dictionary.take(pa.array(used)).cast(pa.string())
        new = texts.filter(pc.invert(pc.is_in(texts, value_set=self._known))).unique()
        if len(new):
            self.values += new.to_pylist()
            self._known = pa.concat_arrays([self._known, new])
        numbers = np.empty(used.max(initial=-1) + 1, np.int64)
        numbers[used] = pc.index_in(texts, value_set=self._known).to_numpy()
        return numbers[places]

    def find(self, column: pa.DictionaryArray) -> np.ndarray:
        """Return the number of each row's text, int64 ``(n,)``: -1 for one that has none. A column without nulls."""
        places = column.indices.to_numpy()
        if not len(places):
            return np.empty(0, np.int64)
        known = pc.index_in(column.dictionary.cast(pa.string()), value_set=self._known)
        return np.asarray(pc.fill_null(known, -1).to_numpy()[places], np.int64)
