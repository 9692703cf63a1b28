"""Hashes of captions and contents, fingerprints of encoders, and the numbers that the index keeps of them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import Fingerprint, caption_hash, content_hash
from storage.index.hash_numbers import hash_numbers
from tests.examples import examples

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def test_spellings_of_one_text_have_one_hash():
    assert caption_hash("café") == caption_hash("cafe\u0301")
    assert caption_hash("a cat") != caption_hash("A cat")
    assert caption_hash("a cat") == content_hash(b"a cat")


@settings(max_examples=examples(30), deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(NUMBERS)))
def test_fingerprint_is_of_the_content(description):
    shuffled = json.loads(json.dumps(dict(reversed(description.items()))))
    assert Fingerprint.of(description) == Fingerprint.of(shuffled)
    assert Fingerprint.of(description) != Fingerprint.of({**description, "another key": 1})


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_fingerprint_refuses_what_json_has_not(value):
    with pytest.raises(ValueError, match="must be plain JSON"):
        Fingerprint.of({"g": value})


def test_texts_that_are_no_hashes_have_one_each() -> None:
    texts = ["0" * 32, "F" * 32, "f" * 32, "a key", "", "g" * 32, " " * 32]
    found = hash_numbers(pa.array(texts))
    assert len(np.unique(found, axis=0)) == len(texts)
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(hash_numbers(pa.array([text]))[0], found[i])
        np.testing.assert_array_equal(hash_numbers(pa.array(["x", *texts]).slice(1))[i], found[i])
