"""What the cryptography of a request costs by itself: bare `cryptography` calls on tokens of the real size, no JWT library."""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks.processes import on_core_of_servers

_SIGNING_INPUT = b"e" * 660
_BATCH = 40
_BUDGET_NS = 25_000_000  # for each operation and round
_ES256 = ec.ECDSA(SHA256())


class CryptoFloor:
    """Times RS256 and ES256 operations on the servers' core."""

    def __init__(self) -> None:
        ec_key, rsa_key = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
        ec_public, rsa_public = ec_key.public_key(), rsa_key.public_key()
        r, s = decode_dss_signature(ec_key.sign(_SIGNING_INPUT, _ES256))
        raw_ec = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        rsa_signature = rsa_key.sign(_SIGNING_INPUT, padding.PKCS1v15(), SHA256())

        def verify_es256() -> None:  # JWS carries r and s, OpenSSL wants DER
            signature = encode_dss_signature(int.from_bytes(raw_ec[:32], "big"), int.from_bytes(raw_ec[32:], "big"))
            ec_public.verify(signature, _SIGNING_INPUT, _ES256)

        def sign_es256() -> None:
            r, s = decode_dss_signature(ec_key.sign(_SIGNING_INPUT, _ES256))
            r.to_bytes(32, "big") + s.to_bytes(32, "big")

        def verify_rs256() -> None:
            rsa_public.verify(rsa_signature, _SIGNING_INPUT, padding.PKCS1v15(), SHA256())

        self._operations: dict[str, Callable[[], None]] = {
            "verify ES256": verify_es256,
            "sign ES256": sign_es256,
            "verify RS256": verify_rs256,
        }

    def measure(self) -> dict[str, float]:
        """CPU nanoseconds of one call of each operation, now."""
        with on_core_of_servers():
            return {name: _time(operation) for name, operation in self._operations.items()}


def _time(operation: Callable[[], None]) -> float:
    calls, started = 0, time.thread_time_ns()
    while time.thread_time_ns() - started < _BUDGET_NS:
        for _ in range(_BATCH):
            operation()
        calls += _BATCH
    return (time.thread_time_ns() - started) / calls
