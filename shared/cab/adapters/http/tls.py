"""Who is believed over TLS, the same for every client and on every Python, and in which words it is said that somebody was not."""

from __future__ import annotations

import functools
import logging
import ssl

_logger = logging.getLogger(__name__)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Chain, host name and time are checked, against the system's authorities. Made once: reading them takes 20 ms of CPU.

    From 3.13 on, Python's own also refuses chains that verify but are not written as RFC 5280 wants, as those of private authorities
    often are, and believes an authority without its root: docs/decisions/certificates-are-verified-not-proofread.md.
    """
    context = ssl.create_default_context()
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])  # as aiohttp's own does
    return context


def in_words(error: ssl.SSLError) -> str:
    """OpenSSL's words, which quote nothing that the other side sent: a host name in them is the one that was called."""
    return str(getattr(error, "verify_message", None) or error.reason or "it ended early")


def tell(host: str, error: ssl.SSLError) -> None:
    """For the operator alone: whoever waits for the answer hears that there is none."""
    _logger.warning("no TLS with %s: %s", host, in_words(error))
