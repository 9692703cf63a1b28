"""Attributes that are computed once for each object, also where many threads compute those of many objects."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self, TypeVar, overload

T = TypeVar("T")


class cached_attribute(cached_property[T]):  # noqa: N801 as property and cached_property are
    """`functools.cached_property` without the lock that in Python 3.11 all objects of a class share.

    With it, threads that fetch something for an object each do so one after the other. Without it, as from Python 3.12
    on, two threads that ask the same object may both compute the value.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        assert self.attrname is not None
        if self.attrname not in instance.__dict__:
            instance.__dict__[self.attrname] = self.func(instance)
        return instance.__dict__[self.attrname]
