"""Commands that try what is configured against the live systems: `doctor` (all of it), `connection` and `idp` (one)."""
