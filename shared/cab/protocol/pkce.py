"""Proof Key for Code Exchange, method S256 only (RFC 7636 section 4)."""

from __future__ import annotations

import hashlib

from cab.domain.identifiers import base64url


def code_challenge(code_verifier: str) -> str:
    """BASE64URL(SHA256(verifier)), section 4.2."""
    return base64url(hashlib.sha256(code_verifier.encode("ascii")).digest())
