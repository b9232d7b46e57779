"""Keys of front ends and agents, for `private_key_jwt` (RFC 7523 section 2.2): JWK files made anew for each stack."""

from __future__ import annotations

import json
from pathlib import Path

from cab_dev.stack_file import write_private
from cab_ops.rotate_keys import new_private_jwk


def write_client_key(folder: Path, client_id: str) -> Path:
    """Make an ES256 key and store it as `CLIENT_ID.json` (RFC 7517), readable by its owner only."""
    path = folder / f"{client_id}.json"
    write_private(path, json.dumps({**new_private_jwk(), "alg": "ES256", "use": "sig"}, indent=2) + "\n")
    return path
