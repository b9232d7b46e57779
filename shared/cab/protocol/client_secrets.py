"""Client authentication by a secret, in both directions: in the header or in the form (RFC 6749 section 2.3.1)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import quote, unquote_plus


def basic_credentials(header: str) -> tuple[str, tuple[str, ...]] | None:
    """Client id of a Basic Authorization header and what its secret may be, or None when malformed.

    Both are form-encoded (RFC 6749 section 2.3.1); many clients write the secret as it is, where it may hold + and %.
    """
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return (unquote_plus(user), tuple(dict.fromkeys((unquote_plus(password), password)))) if colon else None


def with_secret(
    form: Mapping[str, str], client_id: str, secret: str, *, in_form: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """The form and the headers of a request that authenticates by this secret: `in_form`, or else by HTTP Basic."""
    if in_form:
        return {**form, "client_id": client_id, "client_secret": secret}, {}
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return dict(form), {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
