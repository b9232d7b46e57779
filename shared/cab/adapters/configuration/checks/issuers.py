"""What people write for an identity provider's issuer that never is one: consoles, endpoints, other names of the same place."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from cab.values import immutable

_V1: Final = "sts.windows.net"  # of tokens of version 1.0
ENTRA: Final = frozenset(
    {"login.microsoftonline.com", _V1, "login.microsoftonline.us", "login.partner.microsoftonline.cn"}
)
_DIRECTORY: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# What people copy from a console or a browser instead of the issuer that the endpoint belongs to.
_ENDPOINT: Final = re.compile(
    r"/(?:authorize|token|keys|certs|jwks(?:\.json)?|userinfo|token\.oauth2)/?\Z|/protocol/openid-connect(?:/|\Z)"
    r"|/realms/[^/]+/account(?:/|\Z)|/realms/?\Z|/admin/(?:realms/[^/]+|[^/]+/console)(?:/|\Z)"
    r"|/oauth2/v2\.0/?\Z|/oauth2/(?:[^/]+/)?v1/?\Z|/oauth/v2/?\Z|/adfs/(?:services/trust|ls|oauth2)/?\Z"
)


@immutable
class _Form:
    """Whatever can be an issuer at hosts that end so: `issuer` matches all of host and path. Compiled at its first use."""

    hosts: tuple[str, ...]
    issuer: str
    said: str
    remedy: str


_NONE: Final = r"(?!)"
_OF_ENTRA: Final = tuple(f".{host}" for host in sorted(ENTRA))
_FORMS: Final = (  # the first that does not hold is told
    _Form(("-admin.okta.com", "-admin.oktapreview.com"), _NONE, "is the address of Okta's console", "remove -admin"),
    _Form(
        (".login.windows.net", ".login.microsoft.com"),
        _NONE,
        "is on another host than tokens of Entra ID name",
        "write https://login.microsoftonline.com/ID/v2.0 with the id of your directory",
    ),
    _Form(
        _OF_ENTRA,
        r"[^/]+(?:/(?!(?:common|organizations|consumers)(?:/|\Z)).*)?",
        "is an endpoint for all directories",
        "write the id of your directory: tokens name that one, whichever endpoint the login began at",
    ),
    _Form(
        _OF_ENTRA,
        rf"[^/]+/{_DIRECTORY}(?:/.*)?",
        "does not name a directory by its id",
        "write the id of your directory in small letters, not its domain",
    ),
    _Form((f".{_V1}",), r".*/", "lacks the slash that v1.0 tokens' ends with", "end it with a slash"),
    _Form(
        tuple(host for host in _OF_ENTRA if host != f".{_V1}"),
        r".*/v2\.0",
        "is that of no version of tokens",
        "end it with /v2.0, and have the registration issue v2.0 tokens",
    ),
    _Form(
        (".ciamlogin.com",),
        rf"({_DIRECTORY})\.ciamlogin\.com/\1/v2\.0",
        "does not name the directory as tokens of Entra External ID do",
        "write https://ID.ciamlogin.com/ID/v2.0, with the directory's id twice",
    ),
    _Form(
        (".b2clogin.com",),
        rf"[^/]+/(?:tfp/)?{_DIRECTORY}(?:/[^/]+)?/v2\.0/",
        "does not name the directory as tokens of Azure AD B2C do",
        "write the directory's id, and end it with /v2.0/",
    ),
    _Form(
        (".amazoncognito.com",),
        _NONE,
        "is the domain of a user pool's login",
        "write https://cognito-idp.REGION.amazonaws.com/POOL_ID, and this address under endpoint_origins",
    ),
    _Form(
        (".amazonaws.com",),
        r"(?!cognito-idp\.).*|[^/]+/[^/]+_[^/]+",
        "is that of no user pool",
        "write the user pool's id behind the host, without a slash at the end",
    ),
    _Form((".auth0.com",), r"[^/]+/", "lacks the slash that Auth0's ends with", "end it with a slash"),
    _Form(
        (".okta.com", ".oktapreview.com", ".okta-emea.com"),
        r"[^/]+(?:/oauth2/[^/]+)?",
        "is that of no authorization server of Okta's",
        "write the bare host, or /oauth2/ID behind it, without a slash at the end",
    ),
    _Form((".onelogin.com",), r"[^/]+/oidc(?:/\d)?", "lacks the end that OneLogin's has", "end it with /oidc/2"),
    _Form(
        tuple(f".auth.pingone.{domain}" for domain in ("com", "eu", "ca", "asia", "com.au", "sg")),
        r"[^/]+/[^/]+/as",
        "lacks the end that PingOne's has",
        "end it with /as behind the environment's id",
    ),
)


def why_no_token_names(issuer: str) -> tuple[str, str] | None:
    """Why no token will ever name this issuer, with the remedy; None where one may. Raises ValueError: it is no URL."""
    parts = urlsplit(issuer)
    host, path = parts.hostname or "", parts.path
    if "{" in issuer or "}" in issuer:
        return "holds a placeholder", "write the issuer as your ID tokens have it"
    if "/.well-known/" in path:
        return "is the address of its discovery document", "remove everything from /.well-known/ on"
    if _ENDPOINT.search(path):
        return "is the address of an endpoint", "write `issuer` as the provider's discovery document has it"
    if path.rpartition("/")[0].endswith("/application/o") and not path.endswith("/"):
        return "lacks the slash that authentik's ends with", "end it with a slash"
    for form in _FORMS:
        if f".{host}".endswith(form.hosts) and not re.fullmatch(form.issuer, host + path):
            return form.said, form.remedy
    return None
