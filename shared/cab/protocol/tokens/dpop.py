"""DPoP proofs (RFC 9449): the caller shows that it holds a key, for this method and this URL, once."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from cab.domain.identifiers import base64url
from cab.protocol.jose import jwk, jws
from cab.protocol.names import DPOP_TYP
from cab.values import immutable

WINDOW: Final = timedelta(seconds=60)  # how far `iat` may be from our clock, either way
MAX_JTI_CHARS: Final = 255


class InvalidProof(Exception):
    """The proof must not be accepted. The message is a fixed phrase."""


@immutable
class Proof:
    """A verified proof, not yet spent. `jkt` is the RFC 7638 thumbprint of its key; a replay is known by (jkt, jti)."""

    jkt: str
    jti: str
    spend_until: datetime


def verify(proof: str, *, method: str, url: str, now: datetime, access_token: str | None = None) -> Proof:
    """Section 4.3, checks 2 to 11 except replay, which needs a store. `url` is our configured public URL, never the Host header.
    With an `access_token` (section 7) the proof must carry its hash.

    Raises: InvalidProof.
    """
    try:
        token = jws.parse(proof, allowed_headers=frozenset({"jwk"}))
        members = token.header.get("jwk")
        if token.header.get("typ") != DPOP_TYP or not isinstance(members, dict):
            raise InvalidProof("not a DPoP proof")
        key = jwk.parse(members)
    except (jws.TokenRejected, jwk.InvalidKey) as error:
        raise InvalidProof("malformed") from error
    if key.algorithm != token.algorithm or not key.verifies(token.signing_input, token.signature):
        raise InvalidProof("signature does not verify")
    claims = token.claims
    jti, issued = claims.get("jti"), claims.get("iat")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_CHARS:
        raise InvalidProof("jti is missing or malformed")
    if claims.get("htm") != method:
        raise InvalidProof("htm is another method")
    htu = claims.get("htu")
    if not isinstance(htu, str) or htu.partition("#")[0].partition("?")[0] != url:
        raise InvalidProof("htu is another URL")
    if access_token is not None and claims.get("ath") != base64url(hashlib.sha256(access_token.encode()).digest()):
        raise InvalidProof("ath is of another token")
    # Compared, never calculated with: JSON integers can be longer than a float can be large.
    earliest, latest = (now - WINDOW).timestamp(), (now + WINDOW).timestamp()
    if isinstance(issued, bool) or not isinstance(issued, int) or not earliest <= issued <= latest:
        raise InvalidProof("iat is out of the window")
    return Proof(jwk.thumbprint(members), jti, datetime.fromtimestamp(issued, now.tzinfo) + WINDOW)
