"""Which addresses outbound calls may reach: public ones only, however they are written (security: SSRF)."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
# Retired by RFC 7526, and whether it counts as global depends on the version of Python.
_6TO4 = ipaddress.IPv6Network("2002::/16")


def is_public(text: str) -> bool:
    """Whether the address, and every IPv4 address hidden inside an IPv6 one, is globally reachable."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if address in _6TO4:
        return False
    return all(item.is_global and not item.is_multicast for item in (address, *_embedded(address)))


def is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text == "localhost"


def is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    """IPv4 inside IPv6: mapped, Teredo (server and client), NAT64. `is_global` alone looks through none of them."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [item for item in (address.ipv4_mapped, *(address.teredo or ())) if item is not None]
    if address in _NAT64 or address in _NAT64_LOCAL:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return found
