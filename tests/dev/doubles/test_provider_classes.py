"""What each class of provider does to refresh tokens, access tokens, scopes and grants."""

import dataclasses

import pytest
from tests.dev.doubles.provider_client import ProviderUnderTest

from cab_dev.doubles.oauth_provider import PROFILES, Narrowing, RevocationRadius, token_sha256


def test_a_strict_provider_kills_the_refresh_token_at_its_first_use() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    second = double.refresh(first["refresh_token"]).json()

    again = double.refresh(first["refresh_token"])

    assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
    assert double.refresh(second["refresh_token"]).status_code == 200


def test_reuse_at_a_strict_provider_with_family_revocation_ends_the_grant() -> None:
    double = ProviderUnderTest("salesforce-like")
    first = double.connect()
    second = double.refresh(first["refresh_token"]).json()

    assert double.refresh(first["refresh_token"]).status_code == 400

    assert double.refresh(second["refresh_token"]).status_code == 400
    assert not double.works(second["access_token"])
    assert double.ledger()["grants"][0]["revoked"] is True


@pytest.mark.parametrize(("name", "leeway_s"), [("acme-tracker", 60), ("jira-like", 600)])
def test_a_leeway_provider_takes_the_old_refresh_token_until_the_leeway_ends(name: str, leeway_s: int) -> None:
    double = ProviderUnderTest(name)
    first = double.connect()
    double.refresh(first["refresh_token"])

    double.clock.advance(leeway_s - 1)
    assert double.refresh(first["refresh_token"]).status_code == 200
    double.clock.advance(1)
    assert double.refresh(first["refresh_token"]).json() == {"error": "invalid_grant"}


def test_a_retry_within_the_leeway_does_not_lengthen_it() -> None:
    double = ProviderUnderTest("acme-tracker")
    first = double.connect()
    double.refresh(first["refresh_token"])
    double.clock.advance(50)
    double.refresh(first["refresh_token"])

    double.clock.advance(10)

    assert double.refresh(first["refresh_token"]).status_code == 400


def test_a_static_provider_answers_a_refresh_without_a_refresh_token_and_keeps_the_old_one() -> None:
    double = ProviderUnderTest("google-like")
    first = double.connect()

    answers = [double.refresh(first["refresh_token"]).json() for _ in range(3)]

    assert all("refresh_token" not in answer for answer in answers)
    assert len({answer["access_token"] for answer in answers}) == 3


@pytest.mark.parametrize(
    ("name", "dies_after_s"), [("acme-crm", None), ("github-like", 0), ("jira-like", 600), ("google-like", None)]
)
def test_the_old_access_token_dies_when_the_profile_says_so(name: str, dies_after_s: int | None) -> None:
    double = ProviderUnderTest(name)
    first = double.connect()
    double.refresh(first["refresh_token"])

    if dies_after_s is None:
        double.clock.advance(double.provider.settings.profile.access_token_life_s - 1)
        assert double.works(first["access_token"])
        return
    if dies_after_s:
        double.clock.advance(dies_after_s - 1)
        assert double.works(first["access_token"])
        double.clock.advance(1)
    assert not double.works(first["access_token"])


def test_an_access_token_ends_when_its_life_is_over() -> None:
    double = ProviderUnderTest("acme-crm")
    answer = double.connect()
    assert answer["expires_in"] == 300

    double.clock.advance(299)
    assert double.works(answer["access_token"])
    double.clock.advance(1)
    assert not double.works(answer["access_token"])


def test_a_refresh_token_with_an_end_is_refused_after_it() -> None:
    double = ProviderUnderTest("jira-like")
    first = double.connect()

    double.clock.advance(90 * 86400)

    assert double.refresh(first["refresh_token"]).status_code == 403


@pytest.mark.parametrize(
    ("narrowing", "said"),
    [
        (Narrowing.HONOURED, "read"),
        (Narrowing.IGNORED, "read write offline_access"),
        (Narrowing.WIDENED, "read write offline_access admin.all"),
    ],
)
def test_a_smaller_scope_at_refresh_is_honoured_ignored_or_widened(narrowing: Narrowing, said: str) -> None:
    double = ProviderUnderTest(dataclasses.replace(PROFILES["acme-crm"], narrowing=narrowing))
    first = double.connect(scope="read write offline_access")

    narrow = double.refresh(first["refresh_token"], scope="read").json()

    assert narrow["scope"] == said
    accepted = double.book.accept(narrow["access_token"])
    assert accepted.scopes == set(said.split())


def test_narrowing_once_leaves_the_grant_as_wide_as_it_was() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect(scope="read write offline_access")
    narrow = double.refresh(first["refresh_token"], scope="read").json()

    assert double.refresh(narrow["refresh_token"]).json()["scope"] == "read write offline_access"


@pytest.mark.parametrize("scope", ["read admin.all", "", "nonsense"])
def test_a_refresh_for_more_than_was_granted_is_refused_and_spends_nothing(scope: str) -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect(scope="read offline_access")

    answer = double.refresh(first["refresh_token"], scope=scope)

    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_scope"})
    assert double.refresh(first["refresh_token"]).status_code == 200


def test_without_the_offline_scope_there_is_no_refresh_token() -> None:
    double = ProviderUnderTest("acme-crm")
    assert "refresh_token" not in double.connect(scope="read")


@pytest.mark.parametrize(
    ("radius", "same_grant_lives", "other_grant_lives"),
    [
        (RevocationRadius.TOKEN, True, True),
        (RevocationRadius.GRANT, False, True),
        (RevocationRadius.ACCOUNT, False, False),
    ],
)
def test_revoking_one_token_reaches_as_far_as_the_profile_says(
    radius: RevocationRadius, same_grant_lives: bool, other_grant_lives: bool
) -> None:
    double = ProviderUnderTest(dataclasses.replace(PROFILES["acme-crm"], revocation=radius))
    grant, other_grant, of_bob = double.connect(), double.connect(), double.connect(account="bob")

    answer = double.http.post("/oauth/revoke", data={"token": grant["access_token"]}, auth=("cab", "s3cret-of-cab"))

    assert (answer.status_code, answer.content) == (200, b"")
    assert not double.works(grant["access_token"])
    assert (double.refresh(grant["refresh_token"]).status_code == 200) is same_grant_lives
    assert (double.refresh(other_grant["refresh_token"]).status_code == 200) is other_grant_lives
    assert double.refresh(of_bob["refresh_token"]).status_code == 200


def test_a_provider_without_revocation_has_no_endpoint_and_does_not_advertise_one() -> None:
    double = ProviderUnderTest("jira-like")
    metadata = double.http.get("/.well-known/oauth-authorization-server").json()

    assert "revocation_endpoint" not in metadata
    assert double.http.post("/oauth/revoke", data={"token": "x"}).status_code == 404


def test_a_client_cannot_revoke_or_refresh_the_token_of_another() -> None:
    double = ProviderUnderTest("acme-crm")
    grant = double.connect()
    other = ("other", "other-secret")

    assert double.http.post("/oauth/revoke", data={"token": grant["access_token"]}, auth=other).status_code == 200
    assert double.works(grant["access_token"])
    stolen = double.token(client=other, grant_type="refresh_token", refresh_token=grant["refresh_token"])
    assert stolen.json() == {"error": "invalid_grant"}
    assert double.refresh(grant["refresh_token"]).status_code == 200


def test_invalid_grant_has_the_status_of_the_profile() -> None:
    assert ProviderUnderTest("jira-like").refresh("never-issued").status_code == 403
    assert ProviderUnderTest("acme-crm").refresh("never-issued").status_code == 400


@pytest.mark.parametrize(
    ("name", "error"), [("github-like", "bad_refresh_token"), ("slack-like", "invalid_refresh_token")]
)
def test_some_providers_say_invalid_grant_in_a_success_and_in_other_words(name: str, error: str) -> None:
    answer = ProviderUnderTest(name).refresh("never-issued")
    assert (answer.status_code, answer.json()) == (200, {"error": error})


def test_a_provider_may_separate_scopes_by_commas() -> None:
    double = ProviderUnderTest("slack-like")
    assert double.connect(scope="read,write")["scope"] == "read,write"
    spaced = double.http.get("/oauth/authorize", params=double.authorize_query(scope="read write"))
    assert "error=invalid_scope" in spaced.headers["location"]


def test_a_static_provider_may_send_a_new_refresh_token_while_the_old_one_lives_on() -> None:
    double = ProviderUnderTest("microsoft-like")
    first = double.connect()
    second = double.refresh(first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert double.refresh(first["refresh_token"]).status_code == 200
    assert double.refresh(second["refresh_token"]).status_code == 200


def test_a_user_can_withdraw_access_at_the_provider() -> None:
    double = ProviderUnderTest("acme-crm")
    grant = double.connect()

    assert double.http.post("/_control/withdraw", json={"account": "alice"}).status_code == 200

    assert not double.works(grant["access_token"])
    assert double.refresh(grant["refresh_token"]).json() == {"error": "invalid_grant"}


def test_the_ledger_tells_one_refresh_from_two_and_never_shows_a_token() -> None:
    double = ProviderUnderTest("acme-tracker")
    first = double.connect()
    second = double.refresh(first["refresh_token"]).json()

    shown = double.http.get("/_control/ledger")

    grant = shown.json()["grants"][0]
    assert grant["refreshes"] == 1
    assert set(grant["usable_refresh_tokens"]) == {
        token_sha256(first["refresh_token"]),
        token_sha256(second["refresh_token"]),
    }
    events = [(entry["event"], entry["kind"]) for entry in shown.json()["entries"]]
    assert events == [
        ("issued", "code"),
        ("granted", "grant"),
        ("used", "code"),
        ("issued", "access"),
        ("issued", "refresh"),
        ("refreshed", "refresh"),
        ("issued", "access"),
        ("issued", "refresh"),
    ]
    sequence = [entry["seq"] for entry in shown.json()["entries"]]
    assert sequence == sorted(set(sequence))
    for token in (first["access_token"], first["refresh_token"], second["access_token"], second["refresh_token"]):
        assert token not in shown.text


def test_the_ledger_can_be_read_from_a_sequence_number_on() -> None:
    double = ProviderUnderTest("acme-crm")
    double.connect()
    last = double.ledger()["entries"][-1]["seq"]
    double.works("unknown")

    new = double.http.get("/_control/ledger", params={"since": str(last)}).json()["entries"]

    assert [(entry["event"], entry["why"]) for entry in new] == [("refused", "unknown")]


def test_the_state_of_a_token_is_told_by_its_digest() -> None:
    double = ProviderUnderTest("acme-tracker")
    first = double.connect()

    def state() -> str:
        return str(double.http.get(f"/_control/tokens/{token_sha256(first['refresh_token'])}").json()["state"])

    assert state() == "live"
    double.refresh(first["refresh_token"])
    assert state() == "leeway"
    double.clock.advance(60)
    assert state() == "spent"
    assert double.http.get(f"/_control/tokens/{token_sha256('never-issued')}").status_code == 404


def test_a_provider_started_again_on_its_file_knows_its_tokens(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = str(tmp_path / "double.sqlite")
    before = ProviderUnderTest("acme-crm", database=file)
    first = before.connect()
    second = before.refresh(first["refresh_token"]).json()
    before.book.close()

    after = ProviderUnderTest("acme-crm", database=file)

    assert after.works(second["access_token"])
    assert after.refresh(first["refresh_token"]).status_code == 400
    assert after.refresh(second["refresh_token"]).status_code == 200
    after.book.close()


def test_reset_forgets_grants_ledger_and_faults() -> None:
    double = ProviderUnderTest("acme-crm")
    grant = double.connect()
    double.set_fault(kind="status", status=500)

    assert double.http.post("/_control/reset").status_code == 200

    assert double.refresh(grant["refresh_token"]).json() == {"error": "invalid_grant"}
    assert double.ledger()["grants"] == []
