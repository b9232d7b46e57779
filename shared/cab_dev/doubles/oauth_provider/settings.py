"""What makes one provider double: its name, profile, clients, accounts and scopes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider.profiles import Exchange, ProviderProfile
from cab_dev.doubles.oauth_provider.trusted_assertions import TrustedIssuer


def own_api(client_id: str) -> str:
    """Where the scopes of a client's own API begin."""
    return f"api://{client_id}/"


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
    clients: Mapping[str, RegisteredClient]
    accounts: tuple[Account, ...]
    scopes: Mapping[str, str]
    database: str = ":memory:"
    clock: MovableClock = field(default_factory=MovableClock)
    trusted_issuers: tuple[TrustedIssuer, ...] = ()
    consented_scopes: frozenset[str] | None = None  # what on-behalf-of tokens may carry; None: everything here
    resource: str | None = None  # what every request for a code or a token must name (RFC 8707), as at MCP servers

    @property
    def all_scopes(self) -> Mapping[str, str]:
        """`scopes`; and where tokens are made on behalf of users, those of the API that each client has of its own."""
        if self.profile.exchange is not Exchange.ON_BEHALF_OF:
            return self.scopes
        return {**self.scopes, **{f"{own_api(name)}access": "Ask for access in your name" for name in self.clients}}

    def is_for_us(self, resource: str | None) -> bool:
        """Whether a request for a code or a token names the resource that it must name."""
        return self.resource is None or resource == self.resource

    def split_scopes(self, text: str) -> tuple[str, ...]:
        """The scopes of a `scope` parameter, each once, in the order given."""
        return tuple(dict.fromkeys(part for part in text.split(self.profile.scope_separator) if part))

    def knows_scopes(self, scopes: tuple[str, ...]) -> bool:
        """True for at least one scope, all of them offered here."""
        return bool(scopes) and set(scopes) <= set(self.all_scopes)

    def account_of(self, login: object) -> Account | None:
        return next((account for account in self.accounts if account.login == login), None)
