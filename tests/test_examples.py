"""A fast run leaves out no value of a stacked parameter."""

from __future__ import annotations

from itertools import product

from tests.examples import turns


def test_each_value_of_a_parameter_is_tried() -> None:
    assert turns(list(product("abcd", "xy"))) == [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")]
    assert turns(list(product("ab", "xyz", "12"))) == [("a", "x", "1"), ("b", "y", "2"), ("a", "z", "1")]


def test_all_values_of_one_parameter_are_tried_and_a_test_without_any() -> None:
    assert turns([("a",), ("b",), ("c",)]) == [("a",), ("b",), ("c",)]
    assert turns([()]) == [()]


def test_where_combinations_are_missing_all_others_are_tried() -> None:
    assert turns([("a", "x"), ("a", "y"), ("b", "x")]) == [("a", "x"), ("a", "y"), ("b", "x")]
