"""How providers differ, as data: rotation of refresh tokens, life of old tokens, narrowing, revocation.

The `-like` profiles imitate what those providers document about refresh; they are no statement about their APIs.
"""

from dataclasses import dataclass
from enum import StrEnum


class RefreshClass(StrEnum):
    """What becomes of a refresh token that was used."""

    STATIC = "static"  # stays valid
    LEEWAY = "leeway"  # stays valid for `leeway_s` after its first use
    STRICT = "strict"  # dead at once
    STRICT_FAMILY = "strict_family"  # dead at once, and its reuse revokes every token of the grant


class RefreshAnswer(StrEnum):
    """What a provider whose refresh tokens stay valid sends back at a refresh. The others always send a new one."""

    NONE = "none"
    SAME = "same"
    NEW = "new"  # and the old one goes on working


class OldAccessToken(StrEnum):
    """What becomes of the access tokens of a grant when it is refreshed."""

    LIVES = "lives"
    DIES_AT_ONCE = "dies_at_once"
    DIES_AFTER_LEEWAY = "dies_after_leeway"


class Narrowing(StrEnum):
    """What a `scope` smaller than the granted one does at refresh. RFC 6749 section 6."""

    HONOURED = "honoured"
    IGNORED = "ignored"  # the answer says the full granted scope
    WIDENED = "widened"  # the answer names a scope nobody asked for


class Exchange(StrEnum):
    """Whether an access token can be exchanged for a smaller one, and how."""

    NONE = "none"
    WITH_CLIENT = "with_client"  # RFC 8693, the client authenticates
    TOKEN_ALONE = "token_alone"  # RFC 8693, whoever holds the token may
    ON_BEHALF_OF = "on_behalf_of"  # Microsoft Entra's


class RevocationRadius(StrEnum):
    """What dies when one token is revoked. RFC 7009 section 2.1."""

    TOKEN = "token"
    GRANT = "grant"
    ACCOUNT = "account"  # every grant of that user at that client
    NONE = "none"  # there is no revocation endpoint


@dataclass(frozen=True, kw_only=True)
class ProviderProfile:
    """One kind of provider. Times are seconds; `refresh_token_life_s` None means no end."""

    name: str
    refresh_class: RefreshClass
    leeway_s: int = 0
    old_access_token: OldAccessToken = OldAccessToken.LIVES
    access_token_life_s: int = 3600
    refresh_token_life_s: int | None = None
    refresh_answer: RefreshAnswer = RefreshAnswer.NEW
    narrowing: Narrowing = Narrowing.HONOURED
    exchange: Exchange = Exchange.NONE
    revocation: RevocationRadius = RevocationRadius.GRANT
    invalid_grant_status: int = 400  # 200 means: errors come as successes
    invalid_grant_error: str = "invalid_grant"
    scope_separator: str = " "
    offline_scope: str | None = "offline_access"  # scope that asks for a refresh token; None: always issued

    @property
    def answers_new_refresh_token(self) -> bool:
        return self.refresh_class is not RefreshClass.STATIC or self.refresh_answer is RefreshAnswer.NEW


PROFILES: dict[str, ProviderProfile] = {
    profile.name: profile
    for profile in (
        ProviderProfile(
            name="acme-crm",
            refresh_class=RefreshClass.STRICT,
            access_token_life_s=300,
            exchange=Exchange.WITH_CLIENT,
        ),
        ProviderProfile(
            name="acme-tracker",
            refresh_class=RefreshClass.LEEWAY,
            leeway_s=60,
            access_token_life_s=300,
            exchange=Exchange.ON_BEHALF_OF,
        ),
        ProviderProfile(
            name="salesforce-like",
            refresh_class=RefreshClass.STRICT_FAMILY,
            access_token_life_s=7200,
            narrowing=Narrowing.IGNORED,
            offline_scope="refresh_token",
        ),
        ProviderProfile(
            name="jira-like",
            refresh_class=RefreshClass.LEEWAY,
            leeway_s=600,
            old_access_token=OldAccessToken.DIES_AFTER_LEEWAY,
            refresh_token_life_s=90 * 86400,
            narrowing=Narrowing.IGNORED,
            revocation=RevocationRadius.NONE,
            invalid_grant_status=403,
        ),
        ProviderProfile(
            name="github-like",
            refresh_class=RefreshClass.STRICT,
            old_access_token=OldAccessToken.DIES_AT_ONCE,
            access_token_life_s=8 * 3600,
            narrowing=Narrowing.IGNORED,
            invalid_grant_status=200,
            invalid_grant_error="bad_refresh_token",
            offline_scope=None,
        ),
        ProviderProfile(
            name="slack-like",
            refresh_class=RefreshClass.STRICT,
            access_token_life_s=12 * 3600,
            narrowing=Narrowing.IGNORED,
            invalid_grant_status=200,
            invalid_grant_error="invalid_refresh_token",
            scope_separator=",",
            offline_scope=None,
        ),
        ProviderProfile(
            name="microsoft-like",
            refresh_class=RefreshClass.STATIC,
            refresh_token_life_s=90 * 86400,
            revocation=RevocationRadius.NONE,
        ),
        ProviderProfile(
            name="box-like",
            refresh_class=RefreshClass.STRICT,
            narrowing=Narrowing.IGNORED,
            exchange=Exchange.TOKEN_ALONE,
            offline_scope=None,
        ),
        ProviderProfile(
            name="entra-like",
            refresh_class=RefreshClass.STATIC,
            refresh_token_life_s=90 * 86400,
            narrowing=Narrowing.IGNORED,
            exchange=Exchange.ON_BEHALF_OF,
            revocation=RevocationRadius.NONE,
        ),
        ProviderProfile(
            name="google-like",
            refresh_class=RefreshClass.STATIC,
            refresh_answer=RefreshAnswer.NONE,
            revocation=RevocationRadius.ACCOUNT,
            offline_scope=None,
        ),
    )
}
