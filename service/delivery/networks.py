"""Networks: which addresses a house may call. Pure, and light to import.

Whoever edits a file of endpoints must not reach what only this machine reaches. So public addresses are called by
https, and private ones only where the file names their range.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final

from pydantic import HttpUrl, PlainValidator

_WIDEST: Final = 7
"""Bits of the widest private range, fc00::/7."""
_NAT64: Final = ip_network("64:ff9b::/96")
_TUNNELS: Final = tuple(map(ip_network, ("192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")))
"""Ranges that lead elsewhere or nowhere, though versions of Python call some of them global: 6to4 and its relays,
IETF protocols such as Teredo, documentation (IANA special-purpose registries, RFC 6890 and RFC 9637)."""
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _private(text: Any) -> Network:  # noqa: ANN401 - whatever stands in the file
    network = ip_network(text)
    if network.prefixlen < _WIDEST or network[0].is_global or network[-1].is_global:
        raise ValueError(f"{network} is no private range; public addresses need no allowance")
    return network


PrivateNetwork = Annotated[Network, PlainValidator(_private)]
"""A private range, as it stands in a file."""


def bare(url: HttpUrl) -> HttpUrl:
    """A URL that carries no credentials; raises ValueError for one that does."""
    if url.username or url.password or url.fragment:
        raise ValueError("takes no user, password or fragment")
    return url


def _inner_address(address: Address) -> Address:
    """The IPv4 address inside IPv4-mapped (RFC 4291) and NAT64 (RFC 6052) addresses, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not special and not any(address in one for one in _TUNNELS)


def refusal(address: str, allowed: Sequence[Network], *, sealed: bool) -> str | None:
    """Why an address may not be called, None if it may.

    Args:
        address: As the resolver gave it, or as it stands in the URL.
        allowed: Private ranges that may be called all the same.
        sealed: Whether the call is by TLS; in the clear is for allowed ranges only.
    """
    meant = _inner_address(ip_address(address))
    if any(meant in one for one in allowed):
        return None
    if not _public(meant):
        return f"{address} is no public address, and allow_private does not name it"
    return None if sealed else f"{address} is public, so it is called by https only"
