"""Addresses that are made of others, or that say where nobody can call."""

from __future__ import annotations

import pytest

from zoetrope.serving.config.addresses import AddressError, is_unspecified, next_address


@pytest.mark.parametrize(
    ("address", "places", "expected"),
    [
        ("127.0.0.1:9090", 0, "127.0.0.1:9090"),
        ("127.0.0.1:9090", 2, "127.0.0.1:9092"),
        ("[::1]:9090", 1, "[::1]:9091"),
        ("0.0.0.0:0", 3, "0.0.0.0:0"),
    ],
)
def test_the_next_address(address: str, places: int, expected: str) -> None:
    assert next_address(address, "management", places) == expected


def test_there_is_none_beyond_the_last_port() -> None:
    with pytest.raises(AddressError, match=r"management: '127.0.0.1:65536' must be HOST:PORT"):
        next_address("127.0.0.1:65535", "management", 1)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("0.0.0.0:1", True), ("[::]:1", True), ("127.0.0.1:1", False), ("videos.example.com:1", False)],
)
def test_all_addresses_of_a_machine_are_none_to_call(address: str, expected: bool) -> None:
    assert is_unspecified(address, "http") is expected
