"""Whom Prefect's server of `make serve` answers."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from infra.service.guard import Guard


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"host": "127.0.0.1:4200"}, True),
        ({"host": "localhost:4200", "origin": "http://localhost:4200"}, True),
        ({"host": "[::1]:4200"}, True),
        ({"host": "192.168.0.7:4200", "origin": "http://192.168.0.7:4200"}, True),
        ({"host": "flows.example", "origin": "https://flows.example"}, True),
        ({"host": "127.0.0.1:4200", "origin": "https://proxy.example"}, True),
        ({"host": "127.0.0.1:4200", "origin": "http://attacker.example"}, False),
        ({"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:8000"}, False),
        ({"host": "127.0.0.1:4200", "origin": "null"}, False),
        ({"host": "127.0.0.1:4200", "origin": "http://["}, False),
        ({"host": "127.0.0.1:4200@attacker.example"}, False),
        ({"host": "[127.0.0.1"}, False),
        ({"host": "attacker.example:4200"}, False),
        ({"host": "attacker.example:4200", "origin": "http://attacker.example:4200"}, False),
        ({"host": "127.0.0.1.attacker.example"}, False),
        ({}, False),
    ],
)
def test_foreign_hosts_and_origins_are_refused(headers: dict[str, str], allowed: bool) -> None:
    guard = Guard(never, frozenset({"localhost", "flows.example"}), frozenset({"https://proxy.example"}))
    assert (guard.refusal(Headers(headers)) is None) == allowed


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError
