"""Discovery documents of identity providers (OpenID Connect Discovery 1.0 section 4): what is believed of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from cab.encoding import strict_json

Origin = tuple[str, str]  # scheme; host, and a port that the scheme does not imply
_PORTS: Final = {"https": "443", "http": "80"}


class NotBelieved(ValueError):
    """The document, or a member of it, must not be used. The message is a fixed phrase that quotes nothing."""


def url_of(issuer: str) -> str:
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def read(status: int, body: bytes, *, issuer: str) -> dict[str, Any]:
    """The document, if it is exactly this issuer's own (section 4.3). Raises NotBelieved."""
    if status != 200:
        raise NotBelieved("there is no discovery document")
    try:
        document = strict_json.load_document(body)
    except strict_json.InvalidJson as error:
        raise NotBelieved("the discovery document is no strict JSON object") from error
    if document.get("issuer") != issuer:
        raise NotBelieved("the discovery document names another issuer")
    return document


def origins(urls: Iterable[str]) -> frozenset[Origin]:
    """Where an issuer's endpoints may be: its own origin and the configured ones."""
    return frozenset(_origin(url) for url in urls)


def endpoint(document: Mapping[str, Any], name: str, allowed: frozenset[Origin]) -> str:
    """The URL under this name: a document may send neither people, nor the client's secret, nor us elsewhere. Raises NotBelieved."""
    value = document.get(name)
    if not isinstance(value, str) or not value.isascii() or "#" in value:
        raise NotBelieved(f"{name} is missing or no URL")
    try:
        origin = _origin(value)
    except ValueError as error:
        raise NotBelieved(f"{name} is missing or no URL") from error
    if origin not in allowed:
        raise NotBelieved(f"{name} is on an origin that is neither the issuer's nor in endpoint_origins")
    return value


def _origin(url: str) -> Origin:
    """Raises ValueError. A port that the scheme implies may be written or not (RFC 3986 section 6.2.3), and hosts have no case."""
    parts = urlsplit(url)
    implied = f":{_PORTS.get(parts.scheme, '')}"
    return parts.scheme, parts.netloc.lower().removesuffix(implied)
