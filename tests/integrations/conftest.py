"""The folders of tiny parts that the tests of the adapter use."""

from tests.adapter.conftest import folders

__all__ = ["folders"]
