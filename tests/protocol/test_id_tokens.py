"""ID tokens: who logged in, for which client, and which groups may leave the edge (OpenID Connect Core 3.1.3.7)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.support.jose import ABSENT, rsa_key
from tests.support.vectors import ISSUER, NOW, SECONDS, token, verify

from cab.domain.connections import SecretReference
from cab.domain.deployment import BrowserLogin, IdentityProvider
from cab.protocol import id_tokens
from cab.protocol.jws import TokenRejected

PROVIDER = IdentityProvider(
    issuer=ISSUER,
    tenant="acme",
    groups={"S": "sales", "O": "ops", "S2": "sales"},
    login=BrowserLogin(client_id="cab", client_secret=SecretReference(secret="s")),
)
CLIENT = "web-at-idp"
KEY = rsa_key("other")


def login(*, sent_nonce: str | None = None, **changes: Any) -> id_tokens.Login:
    text = token(key=KEY, **({"header": {"typ": "JWT"}, "aud": CLIENT} | changes))
    verified = verify(text, key=KEY, rules=id_tokens.rules(PROVIDER, CLIENT))
    return id_tokens.read(verified, PROVIDER, client_id=CLIENT, nonce=sent_nonce)


def test_a_login_names_the_person_by_a_key_of_tenant_issuer_and_subject() -> None:
    found = login(auth_time=SECONDS - 5, acr="gold", amr=["pwd"], groups=["S", "S2", "X", 7], name="Alice")
    assert found == id_tokens.Login(
        tenant="acme",
        idp_issuer=ISSUER,
        subject=found.subject,
        idp_subject_hash=found.idp_subject_hash,
        groups=("sales",),
        expires_at=NOW + timedelta(seconds=300),
        auth_time=SECONDS - 5,
        acr="gold",
        amr=("pwd",),
        display_name="Alice",
    )
    assert "somebody" not in found.subject + found.idp_subject_hash
    assert login(sub="another").subject != found.subject == login().subject


@pytest.mark.requirement("OIDC-3.1.3.7-3")
@pytest.mark.parametrize("audience", ["another", CLIENT + " ", CLIENT.upper(), ["another"], [], ABSENT])
def test_a_token_for_another_client_is_refused(audience: Any) -> None:
    with pytest.raises(TokenRejected):
        login(aud=audience)


@pytest.mark.requirement("OIDC-3.1.3.7-5")
@pytest.mark.parametrize(
    ("audience", "azp", "accepted"),
    [
        (CLIENT, ABSENT, True),
        (CLIENT, CLIENT, True),
        (CLIENT, "another", False),
        (CLIENT, None, False),
        ([CLIENT], ABSENT, True),
        ([CLIENT], "another", False),
        ([CLIENT, "another"], ABSENT, False),
        ([CLIENT, "another"], "another", False),
        ([CLIENT, "another"], CLIENT, True),
    ],
)
def test_azp_must_be_the_client_whenever_it_stands_or_several_are_addressed(
    audience: Any, azp: Any, accepted: bool
) -> None:
    if accepted:
        assert login(aud=audience, azp=azp)
    else:
        with pytest.raises(TokenRejected, match="azp"):
            login(aud=audience, azp=azp)


@pytest.mark.requirement("OIDC-3.1.3.7-11")
@pytest.mark.parametrize("nonce", [ABSENT, "other", None, ["n1"], ""])
def test_a_nonce_that_was_sent_must_come_back(nonce: Any) -> None:
    assert login(sent_nonce="n1", nonce="n1")
    with pytest.raises(TokenRejected, match="nonce"):
        login(sent_nonce="n1", nonce=nonce)


@pytest.mark.parametrize(
    ("groups", "mapped"),
    [
        (ABSENT, ()),
        (None, ()),
        ([], ()),
        (["O", "S"], ("ops", "sales")),
        (["sales", "ops"], ()),
        (["X"] * 2000, ()),
    ],
)
def test_only_mapped_groups_leave_the_edge_sorted(groups: Any, mapped: tuple[str, ...]) -> None:
    assert login(groups=groups).groups == mapped


@pytest.mark.parametrize("groups", ["S", {"S": True}, 7, ["X"] * 2001])
def test_malformed_groups_are_refused_not_ignored(groups: Any) -> None:
    with pytest.raises(TokenRejected, match="groups"):
        login(groups=groups)


@pytest.mark.parametrize("moment", ["today", True, -1, 1.5, 1_795_262_400_000])
def test_a_malformed_or_impossible_auth_time_is_refused(moment: Any) -> None:
    """Milliseconds where seconds belong would otherwise look like a login that is always fresh."""
    with pytest.raises(TokenRejected, match="auth_time"):
        login(auth_time=moment)


def test_a_login_cannot_be_later_than_its_token_but_for_the_leeway() -> None:
    assert login(auth_time=SECONDS + 30).auth_time == SECONDS + 30
    with pytest.raises(TokenRejected, match="auth_time"):
        login(auth_time=SECONDS + 31)


@pytest.mark.parametrize(
    ("amr", "kept"), [(ABSENT, ()), ("pwd", ()), (["pwd", 7, "", "a\x00"], ("pwd",)), (["x"] * 30, ("x",) * 20)]
)
def test_methods_that_are_not_text_are_left_out(amr: Any, kept: tuple[str, ...]) -> None:
    assert login(amr=amr).amr == kept


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"name": "Alice", "email": "a@acme.test"}, "Alice"),
        ({"name": "", "preferred_username": "alice"}, "alice"),
        ({"name": "Al\u202eice", "email": "a@acme.test"}, "a@acme.test"),
        ({"name": 7}, None),
        ({}, None),
    ],
)
def test_the_name_people_see_is_printable_or_absent(claims: dict[str, Any], shown: str | None) -> None:
    assert login(**claims).display_name == shown


@pytest.mark.parametrize("typ", ["at+jwt", "cab-assertion+jwt", "logout+jwt", "secevent+jwt"])
def test_another_kind_of_token_is_no_id_token(typ: str) -> None:
    with pytest.raises(TokenRejected, match="typ"):
        login(header={"typ": typ})


@pytest.mark.parametrize("typ", [ABSENT, "JWT", "jwt"])
def test_identity_providers_may_leave_typ_out(typ: Any) -> None:
    assert login(header={"typ": typ})
