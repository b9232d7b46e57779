"""An answer in two lines of JSON, for a caller that asks for it: a first word of what will come, and then the answer.

So refresh_grants says what a token will be while that is committed. The last line holds the answer that would have come alone,
with its status. A caller that does not ask, and a function that knows nothing of parts, have that alone.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from cab.encoding import strict_json

MEDIA_TYPE: Final = "application/x-ndjson"
ACCEPT: Final = f"{MEDIA_TYPE}, application/json"


def are_asked_for(accept: str) -> bool:
    return MEDIA_TYPE in accept


def first(word: dict[str, Any]) -> bytes:
    return orjson.dumps(word) + b"\n"


def last(answer: bytes, *, status: int, retry_after_s: int | None) -> bytes:
    """`answer` is JSON."""
    return orjson.dumps({"status": status, "retry_after_s": retry_after_s, "answer": orjson.Fragment(answer)})


def read_last(body: bytes) -> tuple[dict[str, Any], int, int | None]:
    """The answer, its status and after how many seconds to come back. Raises: InvalidJson for what is not two such lines."""
    read = strict_json.load_object(body.partition(b"\n")[2])
    answer, status, retry_after_s = (read.get(name) for name in ("answer", "status", "retry_after_s"))
    if not isinstance(answer, dict) or not isinstance(status, int) or not isinstance(retry_after_s, int | None):
        raise strict_json.InvalidJson("not the last of two parts")
    return answer, status, retry_after_s
