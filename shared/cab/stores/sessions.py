"""Browser sessions and the one-time `state` of login and connect flows. Cookie and state values are stored only as hashes.

They live in the database that connect_account alone writes (`approvals`): whoever can write a session can be that person.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from cab.domain.identifiers import digest
from cab.ports import Conflict, Create, Delete, Documents, Replace, Unavailable
from cab.stores.fields import from_fields, to_fields
from cab.values import immutable


@immutable
class Session:
    """A person logged in at the IdP in one browser.

    `csrf` stays the same while one person logs in again and again in one browser: forms of other tabs, and what was begun in
    them, outlive a new login. It is also what such a chain of sessions is known by.
    """

    tenant: str
    subject: str
    idp_issuer: str
    groups: list[str]
    auth_time: datetime
    acr: str | None
    amr: list[str]
    display_name: str | None
    csrf: str
    expires_at: datetime
    groups_unknown: str | None = None  # why nothing is known of the groups, as in the assertion
    access_ends_at: datetime | None = None  # when the person's rights end, where the IdP says so


@immutable
class LoginState:
    """A login on its way: bound to the browser by a cookie, to the IdP's answer by nonce and PKCE."""

    idp_issuer: str
    browser: str  # digest of the binding cookie
    nonce: str
    code_verifier: str
    return_to: str  # a path of ours, chosen by us
    min_auth_time: datetime | None
    acr_values: str | None  # any one of these, separated by spaces, when the login must be that strong
    expires_at: datetime


@immutable
class ConnectState:
    """A consent on its way at a provider: bound to one browser session and one user."""

    tenant: str
    subject: str
    connection: str
    session: str  # digest of what its chain of sessions is known by
    code_verifier: str
    replaces: str | None  # the upstream account that the person agreed to replace
    expires_at: datetime


@immutable
class AccountQuestion:
    """A consent came back for another upstream account than is connected: whether the person means to replace that one."""

    tenant: str
    subject: str
    connection: str
    session: str  # digest of what its chain of sessions is known by
    replaces: str
    expires_at: datetime


OneTime = LoginState | ConnectState | AccountQuestion
_Stored = TypeVar("_Stored", Session, LoginState, ConnectState, AccountQuestion)
_OneTime = TypeVar("_OneTime", LoginState, ConnectState, AccountQuestion)
_OF_NO_USE_AFTERWARDS = ("nonce", "code_verifier")
_COLLECTIONS: dict[type, str] = {
    Session: "sessions",
    LoginState: "login_states",
    ConnectState: "connect_states",
    AccountQuestion: "account_questions",
}


class ReturnStanding(StrEnum):
    FIRST = "first"  # for exactly one of all who present it
    AGAIN = "again"  # it was presented before
    OVER = "over"  # it came too late


@immutable
class Presented(Generic[_OneTime]):
    """A one-time secret that somebody presented. `outcome` is what came of it the first time, once that is known."""

    value: _OneTime
    standing: ReturnStanding
    outcome: dict[str, Any] | None = None


class BrowserStates:
    """One small store for the four: create, read while it lives, and take (read and spend, exactly once)."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def put(self, secret: str, value: Session | LoginState | ConnectState | AccountQuestion) -> None:
        await self._documents.write(Create(_path(type(value), secret), to_fields(value), expires_at=value.expires_at))

    async def read(self, kind: type[_Stored], secret: str, *, now: datetime) -> _Stored | None:
        document = await self._documents.read(_path(kind, secret))
        if document is None or document.fields["expires_at"] <= now:
            return None  # the TTL policy may lag by a day
        return from_fields(kind, document.fields)

    async def take(self, kind: type[_OneTime], secret: str, *, now: datetime) -> Presented[_OneTime] | None:
        """Read and spend. Of concurrent takes exactly one is FIRST. None: there is no such secret, or no longer.

        What was spent is kept to its end, so that a second delivery can be told what came of the first.
        """
        path = _path(kind, secret)
        document = await self._documents.read(path)
        if document is not None and "spent_at" not in document.fields:
            value = from_fields(kind, document.fields)
            if value.expires_at <= now:
                return Presented(value, ReturnStanding.OVER)
            try:
                await self._documents.write(
                    Replace(path, _spent(value, now), document.version, expires_at=value.expires_at)
                )
            except Conflict:
                document = await self._documents.read(path)  # another took it first
            else:
                return Presented(value, ReturnStanding.FIRST)
        if document is None:
            return None
        return Presented(from_fields(kind, document.fields), ReturnStanding.AGAIN, document.fields.get("outcome"))

    async def note(self, secret: str, value: OneTime, outcome: dict[str, Any], *, now: datetime) -> None:
        """What came of a secret that was FIRST. Best effort: without it, a second delivery learns less."""
        fields = _spent(value, now) | {"outcome": outcome}
        try:
            await self._documents.write(Replace(_path(type(value), secret), fields, None, expires_at=value.expires_at))
        except Unavailable:
            return

    async def end(self, kind: type[_Stored], secret: str) -> None:
        await self._documents.write(Delete(_path(kind, secret)))


def _spent(value: OneTime, now: datetime) -> dict[str, Any]:
    stored = to_fields(value)
    return stored | {name: "" for name in _OF_NO_USE_AFTERWARDS if name in stored} | {"spent_at": now}


def _path(kind: type, secret: str) -> str:
    return f"{_COLLECTIONS[kind]}/{digest(secret)}"
