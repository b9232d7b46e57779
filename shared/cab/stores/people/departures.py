"""What identity providers said of people after they had logged in: that logins are over, that an account is closed.

Written by connect_account alone (database `approvals`), read by whoever acts for a person. Saying the same twice, late or out of
order changes nothing: the latest instant counts, and an account is open or closed as was said of the latest instant.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cab.domain.identifiers import digest
from cab.ports import AlreadyExists, Conflict, Create, Documents, Replace, Unavailable
from cab.values import immutable

_TRIES: Final = 10


@immutable
class Departure:
    """Logins until `logins_until` are over. `closed_at` is since when the account is closed, `opened_at` since when it is open again."""

    logins_until: datetime | None = None
    closed_at: datetime | None = None
    opened_at: datetime | None = None

    @property
    def is_closed(self) -> bool:
        return self.closed_at is not None and (self.opened_at is None or self.opened_at < self.closed_at)

    def ends(self, login: datetime) -> bool:
        """Whether a login of this instant is over."""
        return self.is_closed or (self.logins_until is not None and login <= self.logins_until)

    def and_also(self, later: Departure) -> Departure:
        return Departure(
            _latest(self.logins_until, later.logins_until),
            _latest(self.closed_at, later.closed_at),
            _latest(self.opened_at, later.opened_at),
        )


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((it for it in (one, other) if it is not None), default=None)


class Departures:
    def __init__(self, approvals: Documents) -> None:
        self._documents = approvals

    async def of(self, tenant: str, subject: str) -> Departure | None:
        document = await self._documents.read(_path(tenant, subject))
        return None if document is None else _restore(document.fields)

    async def note(self, tenant: str, subject: str, said: Departure) -> None:
        """From the return on, every reader sees it. Raises: Unavailable."""
        path = _path(tenant, subject)
        for _ in range(_TRIES):
            document = await self._documents.read(path)
            now_known = said if document is None else _restore(document.fields).and_also(said)
            fields = {
                "logins_until": now_known.logins_until,
                "closed_at": now_known.closed_at,
                "opened_at": now_known.opened_at,
            }
            try:
                await self._documents.write(
                    Create(path, fields) if document is None else Replace(path, fields, document.version)
                )
            except (AlreadyExists, Conflict):
                continue
            return
        raise Unavailable("documents")


def _restore(fields: dict[str, object]) -> Departure:
    def instant(name: str) -> datetime | None:
        value = fields.get(name)
        return value if isinstance(value, datetime) else None

    return Departure(instant("logins_until"), instant("closed_at"), instant("opened_at"))


def _path(tenant: str, subject: str) -> str:
    return f"departures/{digest(tenant, subject)}"
