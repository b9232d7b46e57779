"""Where outbound calls may go: configured origins, over TLS, to addresses that may be reached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from cab.adapters.http.addresses import is_literal, is_loopback, is_private, is_public, may_be_reached

PORTS: Final = {"https": 443, "http": 80}  # where a URL names none


class Origins:
    """Of one client. `private_hosts` are the hosts, written exactly so, that may have addresses inside the organisation's network."""

    def __init__(
        self, origins: Iterable[str], *, allow_loopback_http: bool = False, private_hosts: Iterable[str] = ()
    ) -> None:
        self._origins = frozenset(origins)
        self._checked: set[str] = set()  # of these, what may be reached
        self._loopback_allowed = allow_loopback_http
        self._private_hosts = frozenset(private_hosts)

    def include(self, url: str) -> bool:
        """Origins come from configuration, so a refusal here is a wrong setting or an attack, never a user's mistake."""
        path = url.find("/", len("https://"))
        if path > 0 and url[:path] in self._checked:  # what stands before the path is that, whole
            return True
        parts = urlsplit(url)
        host = parts.hostname or ""
        origin = f"{parts.scheme}://{parts.netloc}"
        loopback_http = self._loopback_allowed and is_loopback(host)
        if (
            origin not in self._origins
            or parts.username is not None
            or (parts.scheme != "https" and not loopback_http)
            or (is_literal(host) and not is_public(host) and not loopback_http and not self._is_named(host))
        ):
            return False
        self._checked.add(origin)
        return True

    def may_lead_to(self, host: str, address: str) -> bool:
        """Asked at connect time, of the very address that is then connected to: a name may lead elsewhere each time (DNS rebinding)."""
        return may_be_reached(host, address, private_hosts=self._private_hosts, loopback_allowed=self._loopback_allowed)

    def _is_named(self, host: str) -> bool:
        return host in self._private_hosts and is_private(host)


def origin_of(url: str) -> str:
    """scheme://host[:port] of a configured URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
