"""Tell the addresses that a data set may have requested: public ones, none of this machine, its network or cloud."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

UNICAST = IPv6Network("2000::/3")
"""Range of all public IPv6 addresses that are given out."""
NAT64 = IPv6Network("64:ff9b::/96")
"""Prefix of IPv4 addresses in a network without IPv4: the address is in the last four bytes."""
CLOUD = {IPv4Address("168.63.129.16")}
"""Addresses of a provider's own services that look like any other: Azure's. The others are link-local or private."""


class PrivateAddressError(Exception):
    """A name or an address that leads to this machine, to its network or to its cloud's own services."""


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the addresses of a host that may be connected to, in the system's order.

    Names, and numbers however they are written, are resolved once: whoever connects must connect to what is returned,
    for a second look-up may have another answer.

    Args:
        host: a name or an address.
        port: to connect to.
        allow_private: whether all of its addresses may be used.

    Raises:
        OSError: there is no such host.
        PrivateAddressError: it has no public address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    usable = [address for address in addresses if allow_private or is_public(address)]
    if not usable:
        raise PrivateAddressError(f"expected a public address, found {', '.join(addresses)}")
    return usable


def is_public(address: str) -> bool:
    """Return whether an address is of the public internet: not loopback, private, link-local, shared or multicast."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or (IPv4Address(int(found) & 0xFFFFFFFF) if found in NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if found not in UNICAST or found.sixtofour is not None or found.teredo is not None:
            return False  # a tunnel's address holds an IPv4 address
    return found.is_global and not found.is_multicast and found not in CLOUD
