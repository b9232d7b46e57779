"""The tracker: everybody's own tasks, made with checked fields."""

import pytest
from tests.examples.acme_in_process import ApiUnderTest


@pytest.fixture
def tracker() -> ApiUnderTest:
    return ApiUnderTest("tracker")


def test_a_task_is_created_for_its_user_and_nobody_else_sees_it(tracker: ApiUnderTest) -> None:
    task = {"title": "Call Globex", "priority": "high", "due": "2027-01-20", "opportunity": "0063"}

    answer = tracker.call("POST", "/tasks", tracker.token("alice"), json=task)

    assert (answer.status_code, answer.json()) == (201, {"id": "t-0001", "owner": "alice", **task})
    assert tracker.call("GET", "/tasks", tracker.token("alice")).json() == {"tasks": [answer.json()]}
    assert tracker.call("GET", "/tasks", tracker.token("bob")).json() == {"tasks": []}


def test_priority_is_normal_and_the_rest_empty_unless_said(tracker: ApiUnderTest) -> None:
    answer = tracker.call("POST", "/tasks", tracker.token("alice"), json={"title": "Call"})
    assert answer.json() == {
        "id": "t-0001",
        "owner": "alice",
        "title": "Call",
        "priority": "normal",
        "due": None,
        "opportunity": None,
    }


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"title": ""},
        {"title": 7},
        {"title": "x" * 201},
        {"title": "x", "priority": "urgent"},
        {"title": "x", "priority": ["high"]},
        {"title": "x", "due": "soon"},
        {"title": "x", "opportunity": "../1"},
        {"title": "x", "opportunity": "0061\n"},
        {"title": "x", "owner": "bob"},
    ],
)
def test_a_task_that_makes_no_sense_is_refused(tracker: ApiUnderTest, task: dict[str, object]) -> None:
    assert tracker.call("POST", "/tasks", tracker.token("alice"), json=task).status_code == 400


def test_reading_and_writing_need_their_scopes(tracker: ApiUnderTest) -> None:
    reader, writer = tracker.token("alice", "task.read"), tracker.token("alice", "task.write")
    assert tracker.call("GET", "/tasks", reader).status_code == 200
    assert tracker.call("POST", "/tasks", reader, json={"title": "x"}).status_code == 403
    assert tracker.call("GET", "/tasks", writer).status_code == 403
    assert tracker.call("GET", "/tasks", "nonsense").status_code == 401


def test_the_demo_can_start_over_with_no_tasks(tracker: ApiUnderTest) -> None:
    token = tracker.token("alice")
    tracker.call("POST", "/tasks", token, json={"title": "x"})
    assert tracker.http.post("/_control/restore").status_code == 200
    assert tracker.call("GET", "/tasks", token).json() == {"tasks": []}
