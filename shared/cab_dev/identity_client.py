"""Gets OIDC tokens from the stack's identity service (`cab_dev.services.google_identity`)."""

from __future__ import annotations

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=5)


class TokenUnavailable(Exception):
    """The identity service did not give a token."""


class IdentityClient:
    """A fresh token for each call.

    Nothing is cached: the service makes a new key whenever it starts, and a remembered token would outlive it.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/token"

    async def token(self, email: str, audience: str) -> str:
        """An ID token of the service account `email` for `audience`. Raises: TokenUnavailable."""
        parameters = {"email": email, "audience": audience}
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(self._url, params=parameters) as response,
            ):
                if response.status != 200:
                    raise TokenUnavailable(f"The identity service answered {response.status}.")
                return await response.text()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise TokenUnavailable("The identity service did not answer.") from exc
