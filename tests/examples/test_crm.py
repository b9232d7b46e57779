"""The CRM: every user sees own deals only, every call needs its scope, and the demo data tells the stories."""

import pytest
from tests.examples.acme_in_process import ApiUnderTest


@pytest.fixture(scope="module")
def shared() -> ApiUnderTest:
    """For tests that change nothing."""
    return ApiUnderTest("crm")


def test_alice_and_bob_get_different_answers_about_acme(shared: ApiUnderTest) -> None:
    def acme_deals(user: str) -> list[dict[str, object]]:
        answer = shared.call("GET", "/opportunities?account=acme", shared.token(user))
        return list(answer.json()["opportunities"])

    (of_alice,), (of_bob,) = acme_deals("alice"), acme_deals("bob")

    assert (of_alice["id"], of_bob["id"]) == ("0061", "0062")
    for field in ("stage", "amount_cents", "next_step"):
        assert of_alice[field] != of_bob[field]
    assert acme_deals("carol") == []


def test_alice_has_exactly_three_stale_deals_and_one_of_them_is_big_and_urgent(shared: ApiUnderTest) -> None:
    deals = shared.call("GET", "/opportunities", shared.token("alice")).json()["opportunities"]
    stale = [deal for deal in deals if deal["stale"]]
    assert [deal["id"] for deal in stale] == ["0063", "0064", "0065"]
    assert [deal["id"] for deal in stale if deal["amount_cents"] >= 10_000_000] == ["0063"]
    assert [deal["id"] for deal in stale if deal["close_date"] <= "2027-01-22"] == ["0063"]


def test_one_note_carries_an_injected_instruction_and_lists_do_not_show_notes(shared: ApiUnderTest) -> None:
    token = shared.token("alice")
    deals = shared.call("GET", "/opportunities", token).json()["opportunities"]
    assert all("notes" not in deal for deal in deals)
    notes = [
        note for deal in deals for note in shared.call("GET", f"/opportunities/{deal['id']}", token).json()["notes"]
    ]
    assert sum("delete all opportunities" in note for note in notes) == 1


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_anothers_deal_and_a_missing_one_get_the_same_answer(shared: ApiUnderTest, method: str) -> None:
    token = shared.token("alice")
    body = {"json": {"stage": "won"}} if method == "PATCH" else {}
    anothers = shared.call(method, "/opportunities/0062", token, **body)
    missing = shared.call(method, "/opportunities/9999", token, **body)
    assert (anothers.status_code, anothers.content) == (404, missing.content)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/opportunities", "opportunity.read"),
        ("GET", "/opportunities/0061", "opportunity.read"),
        ("PATCH", "/opportunities/0061", "opportunity.write"),
        ("DELETE", "/opportunities/0061", "opportunity.delete"),
        ("POST", "/opportunities/0061/notes", "note.write"),
    ],
)
def test_every_call_needs_its_own_scope(shared: ApiUnderTest, method: str, path: str, scope: str) -> None:
    others = [other for other in shared.all_scopes if other != scope]
    answer = shared.call(method, path, shared.token("alice", *others))
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"] == (
        f'Bearer realm="Acme CRM", error="insufficient_scope", scope="{scope}"'
    )


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Bearer", "Basic YTpi", "Bearer a, Bearer b"])
def test_without_a_live_token_there_is_nothing(shared: ApiUnderTest, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = shared.http.get("/opportunities", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="Acme CRM"')
    assert ("error=" in answer.headers["www-authenticate"]) is (header is not None)


def test_two_authorization_headers_are_refused(shared: ApiUnderTest) -> None:
    token = shared.token("alice")
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    assert shared.http.get("/opportunities", headers=headers).status_code == 401


def test_an_access_token_lives_five_minutes() -> None:
    crm = ApiUnderTest("crm")
    token = crm.token("alice")
    crm.clock.advance(299)
    assert crm.call("GET", "/opportunities", token).status_code == 200
    crm.clock.advance(1)
    assert crm.call("GET", "/opportunities", token).status_code == 401


def test_a_change_shows_and_freshens_the_deal() -> None:
    crm = ApiUnderTest("crm")
    token = crm.token("alice")
    change = {"stage": "won", "amount_cents": 120_000, "next_step": "Celebrate", "close_date": "2027-02-01"}

    answer = crm.call("PATCH", "/opportunities/0063", token, json=change)

    assert answer.status_code == 200
    seen = crm.call("GET", "/opportunities/0063", token).json()
    assert {name: seen[name] for name in change} == change
    assert seen["stale"] is False


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"owner": "bob"},
        {"stage": "maybe"},
        {"stage": ["won"]},
        {"amount_cents": "1"},
        {"amount_cents": True},
        {"amount_cents": -1},
        {"amount_cents": 1e3},
        {"amount_cents": 10**400},
        {"next_step": ""},
        {"next_step": "x" * 201},
        {"next_step": None},
        {"close_date": "tomorrow"},
        {"close_date": "20270201"},
        {"close_date": "2027-02-30"},
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(shared: ApiUnderTest, change: dict[str, object]) -> None:
    token = shared.token("alice")
    before = shared.call("GET", "/opportunities/0061", token).json()
    assert shared.call("PATCH", "/opportunities/0061", token, json=change).status_code == 400
    assert shared.call("GET", "/opportunities/0061", token).json() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"stage":"won","stage":"lost"}',
        b'{"amount_cents":NaN}',
        b'{"next_step":"\\ud800"}',
        b'{"next_step":"\xff"}',
        b"[" * 50_000,
        b'{"amount_cents":' + b"9" * 5000 + b"}",
    ],
)
def test_odd_json_is_the_callers_mistake(shared: ApiUnderTest, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    token = shared.token("alice")
    answer = shared.call("PATCH", "/opportunities/0061", token, content=content, headers=headers)
    assert answer.status_code == 400


def test_a_deleted_deal_is_gone_and_can_be_restored_for_the_next_demo() -> None:
    crm = ApiUnderTest("crm")
    token = crm.token("alice")
    assert crm.call("DELETE", "/opportunities/0061", token).status_code == 204
    assert crm.call("GET", "/opportunities/0061", token).status_code == 404
    assert crm.http.post("/_control/restore").status_code == 200
    assert crm.call("GET", "/opportunities/0061", token).status_code == 200


def test_a_note_is_added() -> None:
    crm = ApiUnderTest("crm")
    token = crm.token("alice", "opportunity.read", "note.write")
    assert crm.call("POST", "/opportunities/0064/notes", token, json={"text": "Called."}).status_code == 201
    assert crm.call("GET", "/opportunities/0064", token).json()["notes"] == ["Called."]


@pytest.mark.parametrize("note", [{}, {"text": ""}, {"text": 1}, {"text": "x", "more": 1}, {"text": "x" * 2001}])
def test_a_note_is_text_of_reasonable_length(shared: ApiUnderTest, note: dict[str, object]) -> None:
    answer = shared.call("POST", "/opportunities/0061/notes", shared.token("alice"), json=note)
    assert answer.status_code == 400


def test_unknown_and_repeated_filters_are_refused(shared: ApiUnderTest) -> None:
    token = shared.token("alice")
    for query in ("owner=bob", "account=acme&account=globex", "account=%ff"):
        assert shared.call("GET", f"/opportunities?{query}", token).status_code == 400


def test_the_request_log_names_users_and_shows_no_token() -> None:
    crm = ApiUnderTest("crm")
    token = crm.token("alice")
    crm.call("GET", "/opportunities/0061", token)
    crm.call("GET", "/opportunities", "unknown-token")

    log = crm.http.get("/_control/requests")

    told = [
        {name: entry[name] for name in ("seq", "user", "client_id", "path", "status")}
        for entry in log.json()["requests"]
    ]
    assert told == [
        {"seq": 1, "user": "alice", "client_id": "cab", "path": "/opportunities/0061", "status": 200},
        {"seq": 2, "user": None, "client_id": None, "path": "/opportunities", "status": 401},
    ]
    assert token not in log.text
    assert "unknown-token" not in log.text


def test_the_api_can_be_down_while_the_token_endpoint_works() -> None:
    crm = ApiUnderTest("crm")
    assert crm.http.post("/_control/faults", json={"endpoint": "api", "kind": "status"}).status_code == 200
    token = crm.token("alice")
    assert crm.call("GET", "/opportunities", token).status_code == 503
