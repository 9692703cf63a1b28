import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import Fingerprint, caption_hash, content_hash

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def test_spellings_of_one_text_have_one_hash():
    assert caption_hash("café") == caption_hash("cafe\u0301")
    assert caption_hash("a cat") != caption_hash("A cat")
    assert caption_hash("a cat") == content_hash(b"a cat")


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(NUMBERS)))
def test_fingerprint_is_of_the_content(description):
    shuffled = json.loads(json.dumps(dict(reversed(description.items()))))
    assert Fingerprint.of(description) == Fingerprint.of(shuffled)
    assert Fingerprint.of(description) != Fingerprint.of({**description, "another key": 1})


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_fingerprint_refuses_what_json_has_not(value):
    with pytest.raises(ValueError, match="must be plain JSON"):
        Fingerprint.of({"g": value})
