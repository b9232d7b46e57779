"""Which URLs the configuration may hold: https, or http to loopback where broker.yaml allows it."""

from __future__ import annotations

from urllib.parse import urlsplit

LOOPBACK_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))


def url_mistake(url: str, *, allow_loopback_http: bool) -> tuple[str, str] | None:
    """What is wrong with an absolute URL and the remedy; None when it is fine. Never quotes the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is only parsed when asked for
    except ValueError:
        return "is not a URL", "write https://host/path"
    if any(char.isspace() or not char.isprintable() or char in '\\"<>' for char in url) or not host:
        return "is not a URL", "write https://host/path"
    if "@" in parts.netloc:
        return "holds a user name", "remove everything before the @"
    if "#" in url:
        return "has a fragment", "remove everything from the # on"
    if parts.netloc != parts.netloc.lower():
        return "has capital letters in its host", "write the host in small letters: URLs are compared byte for byte"
    if parts.scheme == "https":
        return None
    if parts.scheme != "http":
        return "is not https", "write https://"
    if host not in LOOPBACK_HOSTS:
        return "is not https", "use https; plain http is for 127.0.0.1, localhost and [::1] only"
    if not allow_loopback_http:
        return "is plain http", "use https, or set allow_loopback_http: true in broker.yaml for local development"
    return None
