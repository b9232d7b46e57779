"""A private authority and certificates as it may write them, for servers on loopback."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# What RFC 5280 wants and an authority left out, or wrote in another way. The chain verifies all the same.
DEVIATIONS: Final = (
    "nothing",
    "no authority key identifier",
    "no subject key identifier",
    "no key usage",
    "basic constraints are not critical",
    "no subject, and its other name is not critical",
)


class Authority:
    """Its root, an authority below that, and servers' certificates of the latter. `deviation`: one of DEVIATIONS.

    `may_sign`: whether the authority below is one. `only_for`: names that the root may vouch for, None for all.
    """

    def __init__(
        self,
        folder: Path,
        deviation: str = "nothing",
        *,
        name: str = "acme",
        may_sign: bool = True,
        only_for: str | None = None,
    ) -> None:
        self._folder = folder
        self._only_for = only_for
        self._deviation = deviation
        self._root_key, self._key = (ec.generate_private_key(ec.SECP256R1()) for _ in "ab")
        root, self._name = _name(f"{name} root"), _name(name)
        self._root = self._signed(root, root, self._root_key, self._root_key, authority=True)
        self._below = self._signed(self._name, root, self._key, self._root_key, authority=may_sign)

    def roots(self) -> Path:
        return self._written("root.pem", self._root)

    def below(self) -> Path:
        """Of the authority below alone, which is not its own issuer."""
        return self._written("below.pem", self._below)

    def server(self, name: str = "localhost", *, since: timedelta = timedelta(hours=-1)) -> ssl.SSLContext:
        """What a server needs to be `name` for a day. It shows the authority below, too, and not the root."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([]) if self._deviation.startswith("no subject,") else _name("server")
        own = self._signed(subject, self._name, key, self._key, host=name, since=since)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        shown = self._written("server.pem", own, self._below, and_key=private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown)
        return context

    def _signed(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        by: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        host: str | None = None,
        since: timedelta = timedelta(hours=-1),
    ) -> x509.Certificate:
        begins = datetime.now(UTC) + since
        basic = x509.BasicConstraints(ca=authority, path_length=None)
        usage = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        extensions: list[tuple[str, x509.ExtensionType, bool]] = [
            ("", basic, self._deviation != "basic constraints are not critical"),
            ("no subject key identifier", x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        ]
        if authority:
            extensions.append(("no key usage", usage, True))
        if subject == issuer and self._only_for is not None:
            extensions.append(("", x509.NameConstraints([x509.DNSName(self._only_for)], None), True))
        if subject != issuer:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
            extensions.append(("no authority key identifier", identifier, False))
        if host is not None:
            extensions.append(("", x509.SubjectAlternativeName([x509.DNSName(host)]), False))
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=1))
        for left_out_by, extension, critical in extensions:
            if left_out_by != self._deviation:
                builder = builder.add_extension(extension, critical)
        return builder.sign(by, hashes.SHA256())

    def _written(self, name: str, *certificates: x509.Certificate, and_key: bytes = b"") -> Path:
        file = self._folder / name
        shown = b"".join(it.public_bytes(serialization.Encoding.PEM) for it in certificates)
        file.write_bytes(shown + and_key)
        return file


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
