"""Google Cloud as the user: credentials for google-cloud-bigquery, -storage and whatever else takes google-auth's.

intent = Intent("bigquery.query.run", on="bigquery", identifier="dataset/sales")
user = CabCredentials(agent, intent, assertion=assertion)
bigquery.Client(project="acme-data", credentials=user).query(sql)
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from google.auth import credentials, exceptions

from cab_client.clients import Agent, User
from cab_client.current import assertion_of
from cab_client.errors import CabError, TryLater
from cab_client.values import Intent, Permit

MARGIN = timedelta(seconds=10)
"""google-auth's own margin of 225 s is most of a permit's life: with it every request would be an exchange."""


class CabCredentials(credentials.CredentialsWithQuotaProject):
    """The user's token for one intent. Holds the assertion of whoever made it, since Google's clients call from threads of
    their own; is renewed `renewals` times at most, by an exchange of the same intent, and never signs.

    A question to the user, or a refusal, is a `RefreshError` that is not retried; its cause is the error of `cab_client`.
    """

    def __init__(
        self,
        agent: Agent,
        intent: Intent,
        *,
        assertion: User | None = None,
        renewals: int = 1,
        quota_project_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._agent = agent
        self._intent = intent
        self._assertion = assertion_of(assertion)
        self._left = renewals + 1
        self._quota_project_id = quota_project_id
        self._permit: Permit | None = None
        self._lock = threading.Lock()
        self._shown = threading.local()  # the permit that this thread has last shown to Google

    @property
    def token(self) -> Any:
        return None if self._permit is None else self._permit.reveal()

    @token.setter
    def token(self, _: Any) -> None:
        """google-auth's constructor sets it to None; nobody else has to."""

    @property
    def expired(self) -> bool:
        permit = self._permit
        return permit is not None and datetime.now(UTC) + MARGIN >= datetime.fromtimestamp(permit.expires_at, UTC)

    @property
    def valid(self) -> bool:
        return self._permit is not None and not self.expired

    @property
    def token_state(self) -> credentials.TokenState:
        return credentials.TokenState.FRESH if self.valid else credentials.TokenState.INVALID

    def apply(self, headers: Any, token: str | None = None) -> None:
        self._shown.permit = self._permit
        super().apply(headers, token)  # type: ignore[no-untyped-call]

    def refresh(self, request: Any) -> None:
        """One exchange, also where several threads want it at once. Raises: google.auth.exceptions.RefreshError."""
        with self._lock:
            if self.valid and self._permit is not getattr(self._shown, "permit", None):
                return  # another thread has renewed it
            if self._left == 0:
                raise exceptions.RefreshError("the permit has ended, and its renewals are spent", retryable=False)
            self._left -= 1
            rejected = self._permit if self.valid else None  # google-auth renews what Google has refused
            try:
                self._permit = self._agent.permit(self._intent, assertion=self._assertion, rejected=rejected)
            except CabError as error:
                raise exceptions.RefreshError(str(error), retryable=isinstance(error, TryLater)) from error

    def with_quota_project(self, quota_project_id: str) -> CabCredentials:
        return CabCredentials(
            self._agent,
            self._intent,
            assertion=self._assertion,
            renewals=max(0, self._left - 1),
            quota_project_id=quota_project_id,
        )

    def __repr__(self) -> str:
        return f"CabCredentials({self._intent.action!r})"

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise TypeError("credentials of a user are not pickled or copied")
