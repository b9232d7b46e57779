"""Keys of front ends and agents, for `private_key_jwt` (RFC 7523 section 2.2): JWK files made anew for each stack."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from cab_dev.stack_file import write_private

_COORDINATE_BYTES = 32  # P-256


def generate_es256_key() -> dict[str, Any]:
    """A private JWK (RFC 7517, RFC 7518 section 6.2); `kid` is its thumbprint (RFC 7638)."""
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    public = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.public_numbers.x),
        "y": _base64url(numbers.public_numbers.y),
    }
    canonical = json.dumps(public, separators=(",", ":"), sort_keys=True).encode()
    kid = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    return {**public, "d": _base64url(numbers.private_value), "kid": kid, "alg": "ES256", "use": "sig"}


def write_client_key(folder: Path, client_id: str) -> Path:
    """Make a key and store it as `CLIENT_ID.json`, readable by its owner only."""
    path = folder / f"{client_id}.json"
    write_private(path, json.dumps(generate_es256_key(), indent=2) + "\n")
    return path


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(_COORDINATE_BYTES, "big")).rstrip(b"=").decode()
