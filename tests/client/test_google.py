"""Google's clients work as the user, by one exchange and not one for each request."""

from __future__ import annotations

import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from google.auth import exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery, storage  # type: ignore[attr-defined]
from urllib3 import HTTPResponse

from cab_client import Agent, ClientSecret, ConfirmationNeeded, Intent
from cab_client.google import CabCredentials
from cab_client.testing import FakeBroker

INTENT = Intent("bigquery.query.run", on="bigquery", identifier="dataset/sales")
agent = Agent(
    "https://cab.acme.example",
    ClientSecret("analyst", "s"),
    connections={"bigquery": "https://bigquery.googleapis.com"},
)


class Answering(requests.adapters.BaseAdapter):
    """Stands for Google: notes the tokens that come, answers each with `status`."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.tokens: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.documents: dict[str, bytes] = {}
        self.status = status

    def send(self, request: Any, *_: Any, **__: Any) -> requests.Response:
        self.asked.append((request.method, request.path_url.partition("?")[0]))
        self.tokens.append(request.headers["authorization"].removeprefix("Bearer "))
        answer = requests.Response()
        answer.status_code = self.status
        answer._content = self.documents.get(request.path_url.partition("?")[0], b'{"datasets": []}')
        answer.raw = HTTPResponse(io.BytesIO(answer._content), preload_content=False)  # downloads read the stream
        answer.headers["Content-Type"] = "application/json"
        answer.request, answer.url = request, request.url
        return answer

    def close(self) -> None: ...


def session_with(user: CabCredentials, google: Answering) -> AuthorizedSession:
    session = AuthorizedSession(user)
    session.mount("https://", google)
    return session


def test_many_requests_are_one_exchange(cab_fake: FakeBroker) -> None:
    cab_fake.permit(INTENT.action, effect="read")
    user, google = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice")), Answering()
    with session_with(user, google) as session:
        client = bigquery.Client(project="acme-data", credentials=user, _http=session)
        for _ in range(5):
            assert list(client.list_datasets()) == []
    assert len(google.tokens) == 5
    assert len(set(google.tokens)) == 1
    assert len(cab_fake.exchanges) == 1


def test_many_objects_of_storage_are_one_exchange_too(cab_fake: FakeBroker) -> None:
    """List, read, write and delete, through google-cloud-storage as it is."""
    reading = Intent("storage.object.change", on="bigquery", identifier="bucket/reports")
    cab_fake.permit(reading.action)
    user, google = CabCredentials(agent, reading, assertion=cab_fake.user("alice")), Answering()
    google.documents = {
        "/storage/v1/b/reports/o": b'{"items": [{"name": "q3.csv"}]}',
        "/download/storage/v1/b/reports/o/q3.csv": b"quarter,amount",
        "/upload/storage/v1/b/reports/o": b'{"name": "q4.csv"}',
    }
    with session_with(user, google) as session:
        bucket = storage.Client(project="acme-data", credentials=user, _http=session).bucket("reports")
        assert [blob.name for blob in bucket.list_blobs()] == ["q3.csv"]
        for _ in range(3):
            assert bucket.blob("q3.csv").download_as_bytes() == b"quarter,amount"
        bucket.blob("q4.csv").upload_from_string("quarter,amount")
        bucket.blob("q3.csv").delete()
    assert {method for method, _ in google.asked} == {"GET", "POST", "DELETE"}
    assert len(google.tokens) >= 6
    assert len(set(google.tokens)) == 1
    assert len(cab_fake.exchanges) == 1


@pytest.mark.parametrize("status", [200, 401])
def test_threads_that_want_a_token_at_once_are_one_exchange(cab_fake: FakeBroker, status: int) -> None:
    """Clients of Google's begin in threads of their own, and what one of them was refused for all of them were."""
    cab_fake.permit(INTENT.action, effect="read")
    user = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice"), renewals=3)
    together = threading.Barrier(6, timeout=10)

    def one(_: int) -> None:
        headers: dict[str, str] = {}
        together.wait()
        user.before_request(None, "GET", "https://bigquery.googleapis.com/x", headers)  # type: ignore[no-untyped-call]
        together.wait()
        if status == 401:
            user.refresh(None)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert len(cab_fake.exchanges) == (1 if status == 200 else 2)


def test_renewing_has_an_end(cab_fake: FakeBroker) -> None:
    """google-auth renews after each 401, twice for each request: that would spend a task's uses on nothing."""
    cab_fake.permit(INTENT.action, effect="read")
    user, google = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice"), renewals=1), Answering(401)
    with session_with(user, google) as session, pytest.raises(exceptions.RefreshError):
        session.get("https://bigquery.googleapis.com/x")
    assert [one.rejected for one in cab_fake.exchanges] == [False, True]


def test_a_permit_is_used_until_shortly_before_its_end(cab_fake: FakeBroker) -> None:
    cab_fake.permit(INTENT.action, effect="read")
    user = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice"))
    assert not user.valid
    user.refresh(None)
    assert user.valid
    assert user._permit is not None
    user._permit.expires_at -= 280
    assert user.valid
    user._permit.expires_at -= 15
    assert user.expired
    assert not user.valid


def test_a_question_to_the_user_is_the_cause_of_an_error_that_is_not_retried(cab_fake: FakeBroker) -> None:
    cab_fake.ask(INTENT.action)
    user = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice"))
    with pytest.raises(exceptions.RefreshError) as failed:
        user.refresh(None)
    assert isinstance(failed.value.__cause__, ConfirmationNeeded)
    assert failed.value.retryable is False


def test_it_is_neither_shown_nor_pickled(cab_fake: FakeBroker) -> None:
    cab_fake.permit(INTENT.action, effect="read")
    user = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice"))
    user.refresh(None)
    assert user.token not in repr(user)
    with pytest.raises(TypeError):
        pickle.dumps(user)


def test_a_quota_project_is_kept(cab_fake: FakeBroker) -> None:
    user = CabCredentials(agent, INTENT, assertion=cab_fake.user("alice")).with_quota_project("acme-billing")
    assert user.quota_project_id == "acme-billing"
