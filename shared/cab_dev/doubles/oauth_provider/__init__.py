"""An OAuth 2 authorization server double: code flow with PKCE, rotating refresh tokens, faults and a ledger.

`OAuthProvider` gives routes and a bearer check to a demo service; `create_provider_app` is the same as an application
of its own, for tests.
"""

from cab_dev.doubles.oauth_provider.profiles import (
    PROFILES,
    Exchange,
    Narrowing,
    OldAccessToken,
    ProviderProfile,
    RefreshAnswer,
    RefreshClass,
    RevocationRadius,
)
from cab_dev.doubles.oauth_provider.server import OAuthProvider, create_provider_app
from cab_dev.doubles.oauth_provider.settings import Account, ProviderSettings
from cab_dev.doubles.oauth_provider.token_book import AcceptedToken, TokenBook, s256, token_sha256
from cab_dev.doubles.oauth_provider.trust_file import load_trusted_issuers
from cab_dev.doubles.oauth_provider.trusted_assertions import TrustedIssuer

__all__ = [
    "PROFILES",
    "AcceptedToken",
    "Account",
    "Exchange",
    "Narrowing",
    "OAuthProvider",
    "OldAccessToken",
    "ProviderProfile",
    "ProviderSettings",
    "RefreshAnswer",
    "RefreshClass",
    "RevocationRadius",
    "TokenBook",
    "TrustedIssuer",
    "create_provider_app",
    "load_trusted_issuers",
    "s256",
    "token_sha256",
]
