"""Google knows a project by an id that people chose and by a number."""

from __future__ import annotations

import hashlib


def project_number(project_id: str) -> str:
    """Twelve digits that belong to this project id, in every run."""
    digest = int.from_bytes(hashlib.sha256(project_id.encode()).digest()[:8], "big")
    return str(100_000_000_000 + digest % 900_000_000_000)
