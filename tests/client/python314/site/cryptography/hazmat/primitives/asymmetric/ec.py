"""Stand-in: what the client's tests make keys with."""

import secrets


class SECP256R1:
    pass


def generate_private_key(_: SECP256R1) -> str:
    return secrets.token_hex(32)
