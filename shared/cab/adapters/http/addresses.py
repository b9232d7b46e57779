"""Which addresses outbound calls may reach: public ones, and private ones of hosts that the configuration names (SSRF).

The networks are listed here and not taken from Python's `is_global`, whose meaning differs between versions. Sources: the
IANA special-purpose address registries for IPv4 and IPv6, and the clouds' own documents for their metadata services.
"""

from __future__ import annotations

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Networks of organisations: reached only for a host that `private_hosts` names.
_PRIVATE: Final[tuple[Network, ...]] = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),  # RFC 1918, 6598, 4193
    )
)
# Hand out credentials of the machine, and lie in networks that are otherwise private or public.
_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # every cloud
            "fd20:ce::254",  # Google Cloud
            "fd00:ec2::254",  # AWS
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle Cloud
        ),
    )
)
_NOT_PUBLIC: Final[tuple[Network, ...]] = (
    *_PRIVATE,
    *map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this network
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays, retired
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and the broadcast address
            "100::/64",  # discard
            "100:0:0:1::/64",  # dummy prefix
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, drone remote id
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, retired by RFC 7526
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing identifiers
            "64:ff9b:1::/48",  # NAT64 inside a network
        ),
    ),
)
_IPV6_PUBLIC: Final = ipaddress.IPv6Network("2000::/3")  # the only space that is given out to the internet
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether the address is globally reachable, be it an IPv4 address inside an IPv6 one."""
    address = _plain(text)
    if address is None or address in _METADATA:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in _IPV6_PUBLIC:
        return False
    return not _in_any(address, _NOT_PUBLIC)


def is_private(text: str) -> bool:
    """Whether it is an address inside an organisation's network. Never loopback, link-local or a metadata service."""
    address = _plain(text)
    return address is not None and address not in _METADATA and _in_any(address, _PRIVATE)


def may_be_reached(host: str, address: str, *, private_hosts: frozenset[str], loopback_allowed: bool) -> bool:
    """Whether a connection to a host may go to this address of it. `loopback_allowed`: for hosts that are loopback themselves."""
    return (
        is_public(address)
        or (host in private_hosts and is_private(address))
        or (loopback_allowed and is_loopback(host) and is_loopback(address))
    )


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


def _plain(text: str) -> Address | None:
    """The address that packets go to: IPv4 hidden in IPv6 (mapped, or by NAT64) as itself. None for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else address


def _in_any(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)
