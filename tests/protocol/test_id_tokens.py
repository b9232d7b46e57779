"""ID tokens: who logged in, for which client, and which groups may leave the edge (OpenID Connect Core 3.1.3.7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.jose import ABSENT, rsa_key
from tests.support.vectors import ISSUER, NOW, SECONDS, token, verify

from cab.domain.configured.connections import SecretReference
from cab.domain.configured.deployment import BrowserLogin, IdentityProvider
from cab.domain.groups import GroupsUnknown
from cab.protocol.jose.jws import TokenRejected
from cab.protocol.tokens import id_tokens

PROVIDER = IdentityProvider(
    issuer=ISSUER,
    tenant="acme",
    groups={"S": "sales", "O": "ops", "S2": "sales"},
    login=BrowserLogin(client_id="cab", client_secret=SecretReference(secret="s")),
)
CLIENT = "web-at-idp"
KEY = rsa_key("other")


def login(provider: IdentityProvider = PROVIDER, *, sent_nonce: str | None = None, **changes: Any) -> id_tokens.Login:
    text = token(key=KEY, **({"header": {"typ": "JWT"}, "aud": CLIENT} | changes))
    verified = verify(text, key=KEY, rules=id_tokens.rules(provider, CLIENT))
    return id_tokens.read(verified, provider, client_id=CLIENT, nonce=sent_nonce)


def test_a_login_names_the_person_by_a_key_of_tenant_issuer_and_subject() -> None:
    found = login(auth_time=SECONDS - 5, acr="gold", amr=["pwd"], groups=["S", "S2", "X"], name="Alice")
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
        session=found.session,
        issued_at=NOW,
    )
    assert "somebody" not in found.subject + found.idp_subject_hash
    assert login(sub="another").subject != found.subject == login().subject


def test_tokens_of_one_login_name_one_session_and_no_token_the_providers_own_name_of_it() -> None:
    first = login(sid="s-1", auth_time=SECONDS - 5).session
    assert first == login(sid="s-1", auth_time=SECONDS - 4).session
    others = [login(sid="s-2"), login(auth_time=SECONDS - 5), login(auth_time=SECONDS - 4), login(sid="s-1", sub="bob")]
    assert len({first, *(other.session for other in others)}) == 5
    assert first is not None
    assert "s-1" not in first
    assert login().session is None
    assert login(sid=7).session is None


def test_an_account_of_windows_in_sid_names_no_session() -> None:
    """ADFS: one login could not be told from the next on record."""
    sid = "S-1-5-21-1004336348-1177238915-682003330-1104"
    first, second = (login(sid=sid, auth_time=SECONDS - ago).session for ago in (50, 5))
    assert first is not None
    assert first != second
    assert login(sid=sid).session is None


ENDING = PROVIDER.model_copy(update={"access_until_claim": "ends"})


@pytest.mark.parametrize(
    ("ends", "instant"),
    [
        ("2026-11-21", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-21T12:04:00", NOW + timedelta(minutes=4)),
        ("20261121T120400Z", NOW + timedelta(minutes=4)),
        ("2026-11-21 13:04:00+01:00", NOW + timedelta(minutes=4)),
        (SECONDS + 1, NOW + timedelta(seconds=1)),
        ((SECONDS + 1) * 1000, NOW + timedelta(seconds=1)),
    ],
)
def test_a_persons_access_ends_at_an_instant_which_is_utc_unless_it_says_otherwise(
    ends: Any, instant: datetime
) -> None:
    found = login(ENDING, ends=ends)
    assert found.access_ends_at == instant
    assert found.expires_at == min(instant, NOW + timedelta(seconds=300))


@pytest.mark.parametrize("ends", [SECONDS, "2026-11-21T12:00:00", "2026-11-20", 0, "soon", True])
def test_who_has_access_until_now_has_none(ends: Any) -> None:
    with pytest.raises(TokenRejected):
        login(ENDING, ends=ends)


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
        ([CLIENT, CLIENT], ABSENT, True),  # one audience, said twice
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


def test_groups_may_be_the_names_of_an_object_of_objects() -> None:
    """ZITADEL's `urn:zitadel:iam:org:project:roles`; nothing was known of its users' groups, ever."""
    roles = "urn:zitadel:iam:org:project:roles"
    provider = PROVIDER.model_copy(update={"groups_claim": roles})
    said: dict[str, Any] = {roles: {"S": {"152842456561123": "acme.zitadel.cloud"}, "X": {}}}
    found = login(provider, **said)
    assert (found.groups, found.groups_unknown) == (("sales",), None)
    for unreadable in ({"S": True}, {"S": {}, "O": False}, {"S": "1"}, {}):
        said = {roles: unreadable}
        assert login(provider, **said).groups_unknown is GroupsUnknown.UNREADABLE


@pytest.mark.parametrize(
    ("groups", "mapped"),
    [
        ([], ()),
        (["O", "S"], ("ops", "sales")),
        (["sales", "ops"], ()),
        (["X"] * 2100, ()),
        ("S", ("sales",)),
        ("Xyz", ()),
        ("S-X", ()),
        ("XS", ()),
        ("/S/X", ()),
        ("S2.X", ()),
    ],
)
def test_only_mapped_groups_leave_the_edge_sorted(groups: Any, mapped: tuple[str, ...]) -> None:
    found = login(groups=groups)
    assert (found.groups, found.groups_unknown) == (mapped, None)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({}, GroupsUnknown.MISSING),
        ({"groups": None}, GroupsUnknown.MISSING),
        ({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://x.test"}}}, "left_out"),
        ({"hasgroups": True}, GroupsUnknown.LEFT_OUT),
        ({"hasgroups": "true"}, GroupsUnknown.LEFT_OUT),
        ({"hasgroups": 1}, GroupsUnknown.LEFT_OUT),
        ({"hasgroups": False}, GroupsUnknown.MISSING),
        ({"groups": {"S": True}}, GroupsUnknown.UNREADABLE),
        ({"groups": 7}, GroupsUnknown.UNREADABLE),
        ({"groups": [{"name": "S"}]}, GroupsUnknown.UNREADABLE),
        ({"groups": ["S", 7]}, GroupsUnknown.UNREADABLE),
        ({"groups": "X,S"}, GroupsUnknown.UNREADABLE),
        ({"groups": '["X", "S"]'}, GroupsUnknown.UNREADABLE),
        ({"groups": "X S"}, GroupsUnknown.UNREADABLE),
        ({"groups": "X|S"}, GroupsUnknown.UNREADABLE),
        ({"groups": "X^S"}, GroupsUnknown.UNREADABLE),
        ({"groups": "S:X"}, GroupsUnknown.UNREADABLE),
        ({"groups": "CN=X,OU=Groups#CN=S,OU=Groups"}, GroupsUnknown.UNREADABLE),
    ],
)
def test_groups_that_are_not_said_are_unknown_not_none(claims: dict[str, Any], why: str) -> None:
    found = login(**claims)
    assert (found.groups, found.groups_unknown) == ((), why)


def test_what_is_said_of_the_groups_says_nothing_of_another_claim() -> None:
    """Entra leaves out `groups`; the roles of the application it always sends."""
    by_roles = PROVIDER.model_copy(update={"groups_claim": "roles"})
    found = login(by_roles, roles=["S"], hasgroups=True, _claim_names={"groups": "src1"})
    assert (found.groups, found.groups_unknown) == (("sales",), None)


@pytest.mark.parametrize(
    ("name", "elsewhere", "why"),
    [
        ("groups", {"roles": "src1"}, None),
        ("groups", {}, None),
        ("groups", "groups", None),
        ("acme.groups", {"acme.groups": "src1"}, GroupsUnknown.LEFT_OUT),
        ("realm_access.roles", {"realm_access": "src1"}, GroupsUnknown.LEFT_OUT),
        ("realm_access.roles", {"roles": "src1"}, None),
    ],
)
def test_only_a_claim_that_is_named_as_left_out_is(name: str, elsewhere: Any, why: GroupsUnknown | None) -> None:
    provider = PROVIDER.model_copy(update={"groups_claim": name})
    said: dict[str, Any] = {"groups": ["S"], "acme.groups": ["S"], "realm_access": {"roles": ["S"]}}
    found = login(provider, **said, _claim_names=elsewhere)
    assert (found.groups, found.groups_unknown) == ((), why) if why else (("sales",), None)


def test_without_a_mapping_there_is_nothing_to_know_of_groups() -> None:
    assert login(PROVIDER.model_copy(update={"groups": {}})).groups_unknown is None


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["S"]}}),
        ("https://acme.example/roles", {"https://acme.example/roles": ["S"]}),
        ("resource_access.my.app.roles", {"resource_access": {"my.app": {"roles": ["S"]}}}),
        (
            "realm_access.roles",
            {"r": {"alm_access.roles": ["O"]}, "realm_acces": {".roles": ["O"]}, "realm_access": {"roles": ["S"]}},
        ),
        ("realm_access.roles", {"realm_access.roles": ["S"], "realm_access": {"roles": ["O"]}}),
        ("cognito:groups", {"cognito:groups": ["S"]}),
    ],
)
def test_groups_are_found_in_nested_claims_and_under_names_with_dots(name: str, claims: dict[str, Any]) -> None:
    assert login(PROVIDER.model_copy(update={"groups_claim": name}), **claims).groups == ("sales",)


def test_the_configured_subject_claim_makes_one_person_of_two_registrations() -> None:
    entra = PROVIDER.model_copy(update={"subject_claim": "oid"})
    assert login(entra, sub="a", oid="person").subject == login(entra, sub="b", oid="person").subject
    assert login(entra, sub="a", oid="person").subject != login(entra, sub="a", oid="another").subject


def test_only_of_sub_a_standard_says_that_it_is_text() -> None:
    by_number = PROVIDER.model_copy(update={"subject_claim": "employee"})
    assert login(by_number, employee=4711).subject == login(by_number, employee="4711").subject
    with pytest.raises(TokenRejected, match="subject claim"):
        login(sub=4711)


@pytest.mark.parametrize("value", [ABSENT, None, "", 7.5, True, ["person"]])
def test_a_token_without_the_configured_subject_claim_is_refused(value: Any) -> None:
    with pytest.raises(TokenRejected, match="subject claim"):
        login(PROVIDER.model_copy(update={"subject_claim": "oid"}), oid=value)


@pytest.mark.parametrize("life_s", [3600, 36_000, 43_200, 86_400])
def test_an_id_token_may_live_a_day(life_s: int) -> None:
    assert login(exp=SECONDS + life_s)
    assert login(iat=SECONDS - 300, nbf=SECONDS - 300, exp=SECONDS + life_s - 300)


def test_the_longest_life_is_the_identity_providers_own() -> None:
    with pytest.raises(TokenRejected, match="lives too long"):
        login(exp=SECONDS + 86_401)
    assert login(PROVIDER.model_copy(update={"id_token_max_life_s": 90_000}), exp=SECONDS + 90_000)
    with pytest.raises(TokenRejected, match="lives too long"):
        login(PROVIDER.model_copy(update={"id_token_max_life_s": 600}), exp=SECONDS + 601)


def test_a_logout_token_is_no_id_token() -> None:
    with pytest.raises(TokenRejected, match="logout"):
        login(events={"http://schemas.openid.net/event/backchannel-logout": {}})


@pytest.mark.parametrize(
    ("acr", "kept"), [("1", "1"), (1, "1"), (True, None), (["gold"], None), ("", None), (None, None)]
)
def test_a_level_that_cannot_be_read_is_no_level(acr: Any, kept: str | None) -> None:
    assert login(acr=acr).acr == kept


def test_a_subject_may_be_long_and_of_any_characters() -> None:
    assert login(sub="cn=Ünï, ou=people/" + "x" * 400).subject


@pytest.mark.parametrize("moment", ["today", True, -1, 1_795_262_400_000])
def test_a_malformed_or_impossible_auth_time_is_refused(moment: Any) -> None:
    """Milliseconds where seconds belong would otherwise look like a login that is always fresh."""
    with pytest.raises(TokenRejected, match="auth_time"):
        login(auth_time=moment)


def test_a_login_may_be_later_than_its_token_but_not_in_the_future() -> None:
    assert login(iat=SECONDS - 300, auth_time=SECONDS - 5).auth_time == SECONDS - 5
    assert login(auth_time=SECONDS - 4.5).auth_time == SECONDS - 5
    assert login(auth_time=SECONDS + 30).auth_time == SECONDS + 30
    with pytest.raises(TokenRejected, match="auth_time"):
        login(auth_time=SECONDS + 31)


WINDOWS = "http://schemas.microsoft.com/ws/2008/06/identity/authenticationmethod/windows"


@pytest.mark.parametrize(
    ("amr", "kept"),
    [
        (ABSENT, ()),
        ("pwd", ("pwd",)),
        (["pwd", 7, "", "a\x00"], ("pwd",)),
        (["x"] * 30, ("x",) * 20),
        ([WINDOWS], (WINDOWS,)),
    ],
)
def test_methods_that_are_not_text_are_left_out(amr: Any, kept: tuple[str, ...]) -> None:
    assert login(amr=amr).amr == kept


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"name": "Alice", "email": "a@acme.test"}, "Alice"),
        ({"name": "", "preferred_username": "alice"}, "alice"),
        ({"name": "Al\u202eice", "email": "a@acme.test"}, "a@acme.test"),
        ({"name": "A" * 120, "email": "a@acme.test"}, "A" * 120),
        ({"name": "A" * 121, "email": "a@acme.test"}, "a@acme.test"),
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


@pytest.mark.parametrize("typ", [ABSENT, "JWT", "jwt", "application/jwt"])
def test_identity_providers_may_leave_typ_out(typ: Any) -> None:
    assert login(header={"typ": typ})
