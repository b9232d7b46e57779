"""Where an identity provider's browser login is: its discovery document (OpenID Connect Discovery 1.0 section 4), checked and kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from cab.ports import AnswerTooLarge, Clock, HttpClient, Unavailable
from cab.protocol import discovery
from cab.stores.remembered import Remembered
from cab.values import immutable

FRESH_FOR: Final = timedelta(hours=1)
STALE_IF_ERROR: Final = timedelta(hours=24)
RETRY_AFTER_FAILURE: Final = timedelta(seconds=5)
FETCH_TIMEOUT_S: Final = 4.0


@immutable
class IdpEndpoints:
    """What a login needs of the document."""

    authorization_endpoint: str
    token_endpoint: str
    posts_client_secret: bool  # client_secret_post, where client_secret_basic is not offered
    sends_iss: bool  # RFC 9207 section 3


class IdpMetadata:
    """One per process. Asked only for configured issuers. `origins` says where else each one's endpoints may be."""

    def __init__(self, http: HttpClient, clock: Clock, origins: Mapping[str, tuple[str, ...]]) -> None:
        self._http = http
        self._clock = clock
        self._origins = origins
        self._known: dict[str, Remembered[IdpEndpoints]] = {}

    async def endpoints(self, issuer: str) -> IdpEndpoints:
        """Raises: Unavailable. An outage of the provider takes nothing away that was good in the last day."""
        known = self._known.get(issuer)
        if known is None:
            known = self._known[issuer] = Remembered(
                lambda: self._fetch(issuer),
                self._clock,
                what="identity_provider",
                fresh_for=FRESH_FOR,
                good_for=STALE_IF_ERROR,
                retry_after=RETRY_AFTER_FAILURE,
            )
        return await known.get()

    async def _fetch(self, issuer: str) -> IdpEndpoints:
        try:
            answer = await self._http.get(discovery.url_of(issuer), timeout_s=FETCH_TIMEOUT_S)
            document = discovery.read(answer.status, answer.body, issuer=issuer)
            allowed = discovery.origins((issuer, *self._origins.get(issuer, ())))
            return IdpEndpoints(
                authorization_endpoint=discovery.endpoint(document, "authorization_endpoint", allowed),
                token_endpoint=discovery.endpoint(document, "token_endpoint", allowed),
                posts_client_secret=_only_posts(document.get("token_endpoint_auth_methods_supported")),
                sends_iss=document.get("authorization_response_iss_parameter_supported") is True,
            )
        except (Unavailable, AnswerTooLarge, discovery.NotBelieved) as error:
            raise Unavailable("identity_provider") from error


def _only_posts(methods: object) -> bool:
    """The default of an absent list is client_secret_basic (Discovery section 3)."""
    return isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods
