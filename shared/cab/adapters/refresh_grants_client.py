"""`GrantTokens` over HTTP: how exchange_token and connect_account ask refresh_grants, with their own Google identity."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final

from cab.domain.errors import BrokerError, Reason, Remedy
from cab.encoding import strict_json, two_parts
from cab.ports import (
    AccessToken,
    AnswerTooLarge,
    Foretell,
    ForetoldToken,
    FunctionPoster,
    HttpAnswer,
    ServiceTokens,
    Unavailable,
)
from cab.use_cases.audit.waits import told_by_another

ANSWERED_WITHIN_S: Final = 11.5  # whoever waits here is told to come back then
# The line is kept open beyond that: refresh_grants may be listening to a slow provider, and must not be taken for idle meanwhile.
# As long as its lease and what comes before it; and not for so many that no line is left for others.
KEPT_OPEN_S: Final = 45.0
MOST_KEPT_OPEN: Final = 40
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class RefreshGrantsClient:
    def __init__(self, url: str, http: FunctionPoster, identity: ServiceTokens) -> None:
        self._url = url
        self._http = http
        self._identity = identity
        self._kept_open: set[asyncio.Task[HttpAnswer]] = set()

    async def access_token(
        self,
        *,
        subject_assertion: str,
        connection: str,
        scopes: tuple[str, ...],
        txn: str,
        provider_subject_token: str | None = None,
        rejected_token_sha256: str | None = None,
        foretell: Foretell | None = None,
    ) -> AccessToken:
        asked = {"subject_assertion": subject_assertion, "connection": connection, "scopes": list(scopes), "txn": txn}
        optional = {
            "provider_subject_token": provider_subject_token,
            "rejected_token_sha256": rejected_token_sha256,
        }
        asked |= {name: value for name, value in optional.items() if value is not None}
        is_foretold = False

        def told(line: bytes) -> None:
            nonlocal is_foretold
            said = _foretold(line)
            if said is not None and foretell is not None:
                is_foretold = True
                foretell(said)

        answer = await self._post("/grants/token", asked, first_line=None if foretell is None else told)
        if not is_foretold:  # else it was said before, and may be in an event already
            told_by_another(answer.get("waited_ms"))
        return _access_token(answer)

    async def revoke(self, *, grant_id: str, cause: str, txn: str) -> bool:
        answer = await self._post("/grants/revoke", {"grant_id": grant_id, "cause": cause, "txn": txn})
        return any(item["upstream"] for item in answer["revoked"])

    async def _post(
        self, path: str, document: dict[str, Any], *, first_line: Callable[[bytes], None] | None = None
    ) -> dict[str, Any]:
        token = await self._identity.identity_token(self._url)
        headers = {"Authorization": f"Bearer {token}"}
        if first_line is not None:
            headers["Accept"] = two_parts.ACCEPT
        sending = self._http.post_json(
            f"{self._url}{path}", document, headers=headers, timeout_s=KEPT_OPEN_S, first_line=first_line
        )
        try:
            return _read(await self._in_time(sending))
        except (AnswerTooLarge, strict_json.InvalidJson) as error:
            raise Unavailable("grants") from error

    async def _in_time(self, sending: Coroutine[Any, Any, HttpAnswer]) -> HttpAnswer:
        """The answer, if it comes in time; the request goes on although nobody waits for it. Raises: Unavailable; as the call."""
        task = asyncio.create_task(sending)
        try:
            done, _ = await asyncio.wait({task}, timeout=ANSWERED_WITHIN_S)
        finally:
            if not task.done():  # also when whoever waited has left
                self._keep_open(task)
        if done:
            return task.result()
        raise Unavailable("grants")

    def _keep_open(self, task: asyncio.Task[HttpAnswer]) -> None:
        if len(self._kept_open) >= MOST_KEPT_OPEN:
            task.cancel()
            return
        self._kept_open.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[HttpAnswer]) -> None:
        self._kept_open.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though nobody waits for it


def _read(answer: HttpAnswer) -> dict[str, Any]:
    """The document of a success. Raises: BrokerError; Unavailable; InvalidJson."""
    status, retry_after_s = answer.status, answer.retry_after_s
    if status == 200 and answer.headers.get("content-type") == two_parts.MEDIA_TYPE:
        content, status, retry_after_s = two_parts.read_last(answer.body)
    else:
        content = strict_json.load_object(answer.body)
    if status != 200:
        raise _refusal(content, status, retry_after_s)
    return content


def _foretold(line: bytes) -> ForetoldToken | None:
    try:
        said = strict_json.load_object(line)
        if not _SHA256.fullmatch(said["token_sha256"]):
            return None
        foretold = ForetoldToken(sha256=said["token_sha256"], **_facts(said))
    except (KeyError, TypeError, ValueError):  # the last also for what is not JSON
        return None
    told_by_another(said.get("waited_ms"))
    return foretold


def _access_token(answer: dict[str, Any]) -> AccessToken:
    try:
        return AccessToken(access_token=answer["access_token"], outcome=answer["outcome"], **_facts(answer))
    except (KeyError, TypeError, ValueError) as error:
        # Another revision answers otherwise: an outage, for as long as it lasts.
        raise Unavailable("grants") from error


def _facts(said: dict[str, Any]) -> dict[str, Any]:
    """Raises: KeyError, TypeError, ValueError."""
    return {
        "expires_at": _instant(said["expires_at"]),
        "scopes": tuple(said["scopes"]),
        "narrowed": said["narrowed"],
        "grant_id": said["grant_id"],
        "seq": said["seq"],
        "secret_version": said["secret_version"],
        "renew_at": _instant(said.get("renew_at")),
        "works_until": _instant(said.get("works_until")),
    }


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _refusal(content: dict[str, Any], status: int, retry_after_s: int | None) -> Exception:
    """The refusal as refresh_grants gave it. A refusal of *us* (wrong identity) is our outage, not the caller's fault."""
    try:
        reason = Reason(content.get("reason_code", ""))
    except ValueError:
        return Unavailable("grants")
    if status == 401 or reason is Reason.INTERNAL_ERROR:
        return Unavailable("grants")
    remedy = Remedy(retry_after_s=retry_after_s, interaction_uri=content.get("interaction_uri"))
    return BrokerError(reason, content.get("error_description", ""), remedy=remedy)
