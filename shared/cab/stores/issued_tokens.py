"""What introspection and revocation know of issued tokens, by `jti` or SHA-256: facts, never the token."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain.identifiers import digest
from cab.domain.lru import remember
from cab.ports import Condition, Documents, Replace
from cab.single_flight import SingleFlight
from cab.stores.fields import AS_TEXT, from_fields, to_fields
from cab.values import immutable

KEPT_AFTER: Final = timedelta(hours=24)  # past the token's end, so that people see what was done in their name today
RECORDED_AGAIN_AFTER: Final = timedelta(minutes=5)
LATER_END: Final = timedelta(
    seconds=30
)  # a record may say so much less than the token has, where the end moves with each hand-out
KNOWN: Final = 4096
_Kind = tuple[str, str, str, bool, str, str]


@immutable
class IssuedToken:
    """A pass-through downstream token that was handed out: how an opaque token carries intent (RFC 7662, our extension use)."""

    tenant: str
    subject: str
    client_id: str
    connection: str
    grant_id: str
    scope: str
    details: list[dict[str, Any]] = field(metadata=AS_TEXT)
    act: dict[str, Any] = field(metadata=AS_TEXT)
    txn: str
    issued_at: datetime
    expires_at: datetime
    by_broker: bool = False  # for a call that the broker made: no agent ever had it
    call_id: str | None = None  # of that call
    outcome: str | None = None  # what the agent says came of it, or what the broker saw


class IssuedTokens:
    def __init__(self, guards: Documents) -> None:
        self._guards = guards
        self._recording: SingleFlight[_Kind, None] = SingleFlight()
        self._known: OrderedDict[_Kind, tuple[datetime, datetime]] = OrderedDict()

    def is_recorded(self, sha256: str, token: IssuedToken) -> bool:
        """Whether this instance has recorded a hand-out of this token to this client, for this person, in this task and for the same
        action, of late.

        Where one record for all of them does: an agent that reads 20 deals one by one has been given one token for that.
        """
        known = self._known.get(_kind(sha256, token))
        if known is None:
            return False
        recorded_at, expires_at = known
        return token.issued_at < recorded_at + RECORDED_AGAIN_AFTER and token.expires_at <= expires_at + LATER_END

    async def remember(self, sha256: str, token: IssuedToken) -> None:
        """One record per token, client, transaction and intent, as of its newest hand-out: a token given twice keeps both intents.

        A call that the broker makes has one record, whichever token it took.
        """
        known = self._known  # a revocation meanwhile puts another in its place
        await self.write(sha256, token)
        remember(known, _kind(sha256, token), (token.issued_at, token.expires_at), most=KNOWN)

    async def write(self, sha256: str, token: IssuedToken) -> None:
        """The same of an earlier hand-out, of which there is more to say: it does for none that is made now."""
        fields = to_fields(token) | {"sha256": sha256, "owner": digest(token.tenant, token.subject)}
        if token.call_id is None:
            path = f"issued_tokens/{digest(sha256, token.client_id, token.txn, fields['details'])}"
        else:
            path = _path_of_call(token.tenant, token.subject, token.client_id, token.call_id)
        await self._guards.write(Replace(path, fields, version=None, expires_at=token.expires_at + KEPT_AFTER))

    async def tell(self, *, tenant: str, subject: str, client_id: str, call_id: str, outcome: str) -> None:
        """What came of a call that the broker made, where the call is recorded. Raises: Conflict, Unavailable."""
        found = await self._guards.read(_path_of_call(tenant, subject, client_id, call_id))
        if found is not None:
            until = found.fields["expires_at"] + KEPT_AFTER
            fields = found.fields | {"outcome": outcome}
            await self._guards.write(Replace(found.path, fields, version=found.version, expires_at=until))

    async def remember_first(self, sha256: str, token: IssuedToken) -> None:
        """As `remember`, where `is_recorded` may make it needless: hand-outs of one kind that meet share the record, also where
        it was made between that question and this call.
        """
        if not self.is_recorded(sha256, token):
            await self._recording.do(_kind(sha256, token), lambda: self.remember(sha256, token))

    async def find(self, sha256: str, *, now: datetime) -> list[IssuedToken]:
        """The hand-outs of this token that have not expired, the newest first: several agents may have been given it."""
        found = await self._guards.find(
            "issued_tokens", Condition("sha256", "==", sha256), order_by="issued_at", descending=True, limit=50
        )
        return [from_fields(IssuedToken, document.fields) for document in found if document.fields["expires_at"] > now]

    async def of_user(self, tenant: str, subject: str, *, limit: int) -> list[IssuedToken]:
        """What was handed out for one user in the last day or so, the newest first."""
        found = await self._guards.find(
            "issued_tokens",
            Condition("owner", "==", digest(tenant, subject)),
            order_by="issued_at",
            descending=True,
            limit=limit,
        )
        return [from_fields(IssuedToken, document.fields) for document in found]

    async def revoke(self, key: str, *, now: datetime, until: datetime) -> None:
        """Denylist a `jti` or SHA-256 until the token's own end. What this instance hands out from now on is recorded anew."""
        self._known = OrderedDict()
        await self._guards.write(Replace(f"revoked_tokens/{digest(key)}", {"at": now}, version=None, expires_at=until))

    async def revoked_at(self, key: str) -> datetime | None:
        """When it was last revoked. What was handed out later was decided anew, and is not meant."""
        found = await self._guards.read(f"revoked_tokens/{digest(key)}")
        return None if found is None else found.fields["at"]


def _path_of_call(tenant: str, subject: str, client_id: str, call_id: str) -> str:
    return f"issued_tokens/{digest('call', tenant, subject, client_id, call_id)}"


def _kind(sha256: str, token: IssuedToken) -> _Kind:
    """Platforms may give two people the same token, and one agent may have a token and calls made with it."""
    detail = token.details[0]
    return sha256, token.client_id, token.subject, token.by_broker, detail.get("task_id", ""), detail["actions"][0]
