"""Sealing small secrets under a data key: AES-256-GCM with the context as associated data, so a ciphertext fits one place only."""

from __future__ import annotations

import base64
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_VERSION: Final = b"\x01"


class CannotOpen(ValueError):
    """Another key, another context, or a changed byte."""


def seal(key: bytes, plaintext: bytes, *, context: str) -> str:
    nonce = os.urandom(NONCE_BYTES)
    return base64.b64encode(_VERSION + nonce + AESGCM(key).encrypt(nonce, plaintext, context.encode())).decode()


def unseal(key: bytes, sealed: str, *, context: str) -> bytes:
    """Raises CannotOpen."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        if raw[:1] != _VERSION:
            raise CannotOpen("unknown version")
        nonce, ciphertext = raw[1 : 1 + NONCE_BYTES], raw[1 + NONCE_BYTES :]
        return AESGCM(key).decrypt(nonce, ciphertext, context.encode())
    except (InvalidTag, ValueError) as error:
        raise CannotOpen("cannot be opened") from error
