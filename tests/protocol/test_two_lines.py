"""An answer in two lines: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest

from cab.encoding import two_parts
from cab.encoding.strict_json import InvalidJson


@pytest.mark.parametrize(("status", "retry_after_s"), [(200, None), (503, 7)])
def test_the_last_part_holds_the_answer_with_its_status_and_when_to_come_back(
    status: int, retry_after_s: int | None
) -> None:
    first = two_parts.first({"a": "line\nof text"})
    assert first.count(b"\n") == 1
    body = first + two_parts.last(b'{"b":[1]}', status=status, retry_after_s=retry_after_s)
    assert two_parts.read_last(body) == ({"b": [1]}, status, retry_after_s)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"{}\n",
        b'{}\n{"status":200,"answer":{}',
        b'{}\n{"status":200,"answer":[]}',
        b'{}\n{"status":"200","answer":{}}',
        b'{}\n{"status":200,"retry_after_s":"7","answer":{}}',
        b'{}\n{"status":200,"answer":{},"answer":{}}',
        b'{}\n{"status":200,"answer":{}}\n{"status":200,"answer":{}}',
    ],
)
def test_what_is_cut_off_or_no_answer_is_not_read(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        two_parts.read_last(body)


def test_only_who_asks_for_them_gets_two_parts() -> None:
    assert two_parts.are_asked_for(two_parts.ACCEPT)
    assert not two_parts.are_asked_for("application/json")
    assert not two_parts.are_asked_for("*/*")
