"""What makes one provider twin: its name, profile, clients, accounts and scopes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cab_dev.twins.clients import TwinClient
from cab_dev.twins.clock import MovableClock
from cab_dev.twins.oauth_provider.profiles import ProviderProfile
from cab_dev.twins.oauth_provider.trusted_assertions import TrustedIssuer


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user's account at this provider. `account_id` is the provider's own name for the person."""

    login: str
    account_id: str
    name: str
    email: str


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """What makes one provider: `issuer` is its origin; `scopes` maps each scope to words for the consent page."""

    issuer: str
    brand: str
    accent: str
    cookie: str
    profile: ProviderProfile
    clients: Mapping[str, TwinClient]
    accounts: tuple[Account, ...]
    scopes: Mapping[str, str]
    database: str = ":memory:"
    clock: MovableClock = field(default_factory=MovableClock)
    trusted_issuers: tuple[TrustedIssuer, ...] = ()
    consented_scopes: frozenset[str] | None = None  # what on-behalf-of tokens may carry; None: everything here

    def split_scopes(self, text: str) -> tuple[str, ...]:
        """The scopes of a `scope` parameter, each once, in the order given."""
        return tuple(dict.fromkeys(part for part in text.split(self.profile.scope_separator) if part))

    def knows_scopes(self, scopes: tuple[str, ...]) -> bool:
        """True for at least one scope, all of them offered here."""
        return bool(scopes) and set(scopes) <= set(self.scopes)

    def account_of(self, login: object) -> Account | None:
        return next((account for account in self.accounts if account.login == login), None)
