"""This process's own Google access token, as lines of a request. A call that finds a fresh one pays one comparison."""

from __future__ import annotations

import asyncio
from typing import Any

import google.auth
from google.auth.credentials import TokenState

from cab.adapters.google_cloud import metadata_server
from cab.single_flight import SingleFlight

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)  # what the account may do is decided by IAM alone


class NoCredentials(Exception):
    """No access token is available. Carries no text: Google's library quotes the metadata server's answer."""


class AccessTokens:
    """Application default credentials. Nothing is looked up before the first use, which is after the server forks."""

    def __init__(self) -> None:
        self._credentials: Any = None
        self._lines = b""
        self._refreshes: SingleFlight[None, None] = SingleFlight()

    async def lines(self) -> bytes:
        """The authorization of one call: lines of its head, each with its end. Send them over TLS only.

        Concurrent callers share one refresh. Raises: NoCredentials.
        """
        if self.fresh() is None:
            await self._refreshes.do(None, self._refresh)
        return self._lines

    def fresh(self) -> bytes | None:
        """As `lines`, of a token that is there already."""
        if self._credentials is None or self._credentials.token_state is not TokenState.FRESH:
            return None
        return self._lines

    async def _refresh(self) -> None:
        try:
            await asyncio.to_thread(self._refresh_blocking)
        except google.auth.exceptions.GoogleAuthError:
            raise NoCredentials from None
        headers: dict[str, str] = {}
        self._credentials.apply(headers)
        if not all(text.isascii() and text.isprintable() for pair in headers.items() for text in pair):
            raise NoCredentials  # it would end the line that it stands in
        self._lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items()).encode()

    def _refresh_blocking(self) -> None:
        if metadata_server.is_here():
            self._credentials = self._credentials or metadata_server.MetadataCredentials()
            self._credentials.refresh(None)
            return
        from google.auth.transport.requests import Request  # noqa: PLC0415 - costly, and not needed on Cloud Run

        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=_SCOPES)
        self._credentials.refresh(Request())
