"""Which addresses outbound calls may reach, however they are written (security.md I2 and section 4, last row)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.adapters.http.addresses import is_literal, is_loopback, is_private, is_public

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "142.250.74.46",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # the metadata server
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",  # the metadata server over IPv6
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe",  # NAT64 of the metadata server
    "64:ff9b::7f00:1",
    "64:ff9b:1::a9fe:a9fe",
    "2002:808:808::1",  # 6to4, of a public address
    "2002:a9fe:a9fe::1",
    "2002:7f00:1::1",
    "2001:0:a9fe:a9fe::1",  # Teredo server
    "2001:0:808:808:0:0:5601:5601",  # Teredo client, inverted
    "2130706433",
    "0x7f000001",
    "017700000001",
    "127.1",
    "localhost",
    "metadata.google.internal",
    "",
    "8.8.8.8 ",
    "8.8.8.8\n",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_nothing_inside_may_be_reached_in_whatever_spelling(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.31.255.254", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"]
)
def test_addresses_of_an_organisations_network_are_private_and_not_public(address: str) -> None:
    assert is_private(address)
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "::ffff:169.254.169.254",
        "fd20:ce::254",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "64:ff9b::7f00:1",
        "224.0.0.1",
        "intranet",
    ],
)
def test_loopback_link_local_and_metadata_addresses_are_never_private(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize("address", ["168.63.129.16", "192.88.99.1", "3fff::1", "5f00::1", "4000::1", "100:0:0:1::1"])
def test_what_versions_of_python_disagree_on_is_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
@fuzz(200)
def test_an_address_hidden_in_another_is_as_public_as_itself(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    hidden = [
        f"::ffff:{inner}",
        str(ipaddress.IPv6Address(0x0064_FF9B << 96 | number)),
        str(ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1)),
        str(
            ipaddress.IPv6Address(
                0x2001_0000 << 96 | int(ipaddress.IPv4Address("8.8.8.8")) << 64 | number ^ 0xFFFF_FFFF
            )
        ),
    ]
    if not is_public(str(inner)):
        assert not any(is_public(address) for address in hidden)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1.evil.test", "localhost.evil.test", "LOCALHOST.", "0.0.0.0", "evil.test", "2130706433"]
)
def test_nothing_else_counts_as_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_literal_is_an_address_and_nothing_that_must_be_resolved() -> None:
    assert is_literal("8.8.8.8")
    assert is_literal("::1")
    for host in ("example.test", "127.1", "2130706433", "0x7f.1"):
        assert not is_literal(host)
