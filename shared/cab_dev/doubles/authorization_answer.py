"""The redirect that ends an authorization request. RFC 6749 sections 4.1.2, 4.1.2.1; RFC 9207."""

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.responses import RedirectResponse


class RefusedToClient(Exception):
    """An authorization error that the client learns by redirect, once its redirect URI is known to be its own."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


def back_to_client(redirect_uri: str, *, issuer: str, state: str | None, answer: Mapping[str, str]) -> RedirectResponse:
    """303 to the client with `answer`, its `state` if it sent one, and our `iss`, on errors too."""
    parameters = {**answer, **({} if state is None else {"state": state}), "iss": issuer}
    separator = "&" if "?" in redirect_uri else "?"
    location = redirect_uri + separator + urlencode(parameters, errors="replace")
    return RedirectResponse(location, status_code=303, headers={"Referrer-Policy": "no-referrer"})
