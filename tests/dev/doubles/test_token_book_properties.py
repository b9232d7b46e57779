"""Whatever clients do in whatever order, each class of provider keeps its promises. Checked against a small model."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import PROFILES, ProviderProfile, RefreshClass, TokenBook, s256, token_sha256
from cab_dev.doubles.oauth_provider.token_book import GrantRefused

VERIFIER = "v" * 43
CLIENT = "cab"


class ClientOfOneProvider(RuleBasedStateMachine):
    """Connects, refreshes with any token it ever had, revokes, and waits."""

    profile: ProviderProfile

    grants: Bundle[str] = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.clock = MovableClock(lambda: 1_800_000_000.0)
        self.book = TokenBook(self.profile, self.clock)
        self.refresh_tokens: dict[str, list[str]] = {}  # by grant, oldest first
        self.first_use: dict[str, float] = {}
        self.ended: set[str] = set()
        self.refreshes: dict[str, int] = {}

    def teardown(self) -> None:
        self.book.close()

    @rule(target=grants)
    def connect(self) -> str:
        code = self.book.issue_code(
            client_id=CLIENT, account="a", redirect_uri="r", scopes=["x", "offline_access"], challenge=s256(VERIFIER)
        )
        tokens = self.book.redeem_code(code, client_id=CLIENT, redirect_uri="r", verifier=VERIFIER)
        assert tokens.refresh_token is not None
        self.refresh_tokens[tokens.grant_id] = [tokens.refresh_token]
        self.refreshes[tokens.grant_id] = 0
        return tokens.grant_id

    @rule(grant=grants, which=st.integers(0, 5))
    def refresh(self, grant: str, which: int) -> None:
        token = self.refresh_tokens[grant][-1 - which % len(self.refresh_tokens[grant])]
        expected = self._is_usable(grant, token)
        used_before = token in self.first_use
        try:
            answer = self.book.refresh(token, client_id=CLIENT, scopes=None)
        except GrantRefused:
            assert not expected
            if grant not in self.ended and used_before and self.profile.refresh_class is RefreshClass.STRICT_FAMILY:
                self.ended.add(grant)
            return
        assert expected
        assert answer.grant_id == grant
        self.refreshes[grant] += 1
        if self.profile.refresh_class is not RefreshClass.STATIC:
            self.first_use.setdefault(token, self.clock())
        if answer.refresh_token is not None and answer.refresh_token != token:
            self.refresh_tokens[grant].append(answer.refresh_token)

    @rule(grant=consumes(grants))
    def revoke(self, grant: str) -> None:
        self.book.revoke(self.refresh_tokens[grant][-1], client_id=CLIENT)
        self.ended.add(grant)

    @rule(seconds=st.sampled_from([0, 1, 30, 59, 60, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def _is_usable(self, grant: str, token: str) -> bool:
        if grant in self.ended:
            return False
        if token not in self.first_use:
            return True
        leeway = self.profile.leeway_s if self.profile.refresh_class is RefreshClass.LEEWAY else 0
        return self.clock() < self.first_use[token] + leeway

    @invariant()
    def the_provider_says_what_the_model_says(self) -> None:
        told: dict[str, Any] = {grant["grant_id"]: grant for grant in self.book.grants()}
        assert set(told) == set(self.refresh_tokens)
        for grant, tokens in self.refresh_tokens.items():
            usable = {token_sha256(token) for token in tokens if self._is_usable(grant, token)}
            assert set(told[grant]["usable_refresh_tokens"]) == usable
            assert told[grant]["refreshes"] == self.refreshes[grant]

    @invariant()
    def a_strict_grant_never_has_two_usable_refresh_tokens(self) -> None:
        if self.profile.refresh_class in (RefreshClass.STRICT, RefreshClass.STRICT_FAMILY):
            assert all(len(grant["usable_refresh_tokens"]) <= 1 for grant in self.book.grants())


@pytest.mark.parametrize("name", ["acme-crm", "acme-tracker", "salesforce-like-revoking-grant", "static"])
def test_every_class_keeps_its_promises(name: str) -> None:
    profiles = {
        "acme-crm": PROFILES["acme-crm"],
        "acme-tracker": PROFILES["acme-tracker"],
        "salesforce-like-revoking-grant": ProviderProfile(name="x", refresh_class=RefreshClass.STRICT_FAMILY),
        "static": ProviderProfile(name="x", refresh_class=RefreshClass.STATIC),
    }
    machine: Any = type("Machine", (ClientOfOneProvider,), {"profile": profiles[name]})
    machine.TestCase.settings = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    machine.TestCase().runTest()
