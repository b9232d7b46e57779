"""What may name a secret and its versions, for every adapter of `SecretVault`."""

from __future__ import annotations

import re

MAX_PAYLOAD_BYTES = 65_536  # Secret Manager's limit
# What the others' secrets in the configuration begin with: Terraform gives them to functions by that (terraform/iam.tf).
OF_CLIENTS = "cab-client-"
OF_IDPS = "cab-idp-"
OF_PROVIDERS = "cab-provider-"
OF_ASSERTIONS = "cab-assertion-"
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,255}")


def checked_secret(secret: str) -> str:
    """`secret`, if it is a legal id. Raises: ValueError, for a mistake in our own code."""
    if not _SECRET.fullmatch(secret):
        raise ValueError("A secret id is 1 to 255 letters, digits, hyphens and underscores.")
    return secret


def checked_version(version: int) -> int:
    """`version`, if it is a number. Raises: ValueError for anything else, such as the alias `latest`."""
    if type(version) is not int or version < 1:
        raise ValueError("A secret version is a number from 1.")
    return version
