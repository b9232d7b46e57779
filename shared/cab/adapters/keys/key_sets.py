"""Public keys of others: key sets by URL or through OIDC discovery, for configured issuers and clients only.

An unknown key, or one that does not verify, causes at most one fetch per source and cool-down; an outage never takes keys away
that were good; a caller waits for a fetch only when there are no good keys or its own is not among them, and half a second,
once, for keys of more than an hour ago; a fetch never follows a redirect and never goes to an origin the configuration does not
name (the reader's rule).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Final

from cab.domain.configured.deployment import IdentityProvider
from cab.ports import AnswerTooLarge, Clock, DocumentReader, NotFound, Unavailable, VerificationKeys
from cab.protocol import discovery
from cab.protocol.jose import jwk
from cab.protocol.jose.jwk import KeySet, OneOf, VerificationKey
from cab.single_flight import SingleFlight
from cab.values import immutable, mutable

FRESH_FOR: Final = timedelta(minutes=5)  # then refetched beside the request that notices
TRUSTED_FOR: Final = timedelta(hours=1)  # then a caller waits a moment for the fetch: a removed key should be gone
MOMENT_S: Final = 0.5
GOOD_FOR: Final = timedelta(hours=24)  # then refetched before any use
COOL_DOWN: Final = timedelta(seconds=30)  # between two fetches that tokens force, and after a failure
RETRY_WITHOUT_KEYS: Final = timedelta(seconds=5)  # after a failure, when nobody can log in meanwhile
FETCH_TIMEOUT_S: Final = 4.0
MAX_BYTES: Final = 1_048_576
MOST_TRIED: Final = 8  # keys, for a token that names none


@immutable
class KeySource:
    """Where a source's keys are: pinned URL, or discovery on the issuer's own origin, or given in the configuration."""

    jwks_uri: str | None = None
    issuer: str | None = None
    inline: KeySet | None = None
    origins: tuple[str, ...] = ()  # where else the discovery document may place the key set


@mutable
class _State:
    keys: KeySet = field(default_factory=dict)
    fetched_at: datetime | None = None
    failed_at: datetime | None = None  # of the last fetch, None when it succeeded
    forced_at: datetime | None = None  # when a token last caused a fetch


class RemoteKeySets:
    """One per process. Raises NotFound for an unknown key of a known set, Unavailable("identity_provider") when it cannot know."""

    def __init__(self, sources: Mapping[str, KeySource], documents: DocumentReader, clock: Clock) -> None:
        self._sources = sources
        self._documents = documents
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._fetches: SingleFlight[str, None] = SingleFlight()

    async def find(
        self, issuer: str, kid: str | None, algorithm: str, *, instead_of: VerificationKey | None = None
    ) -> VerificationKey:
        source = self._sources.get(issuer)
        if source is None:  # never a fetch for an unknown issuer
            raise NotFound(issuer)
        if source.inline is not None:
            return _pick(source.inline, kid, algorithm)
        state = self._states.setdefault(issuer, _State())
        now = self._clock.now()
        age = None if state.fetched_at is None else now - state.fetched_at
        if age is None or age > GOOD_FOR:
            await self._try_fetch(issuer, source, state, now)
            if not self._good(state):
                raise Unavailable("identity_provider")
        elif age > FRESH_FOR and issuer not in self._fetches and self._may_try(state, now):
            fetch = self._fetches.start(issuer, lambda: self._fetch(source, state))
            if age > TRUSTED_FOR:
                await asyncio.wait([fetch], timeout=MOMENT_S)
        try:
            found = _pick(state.keys, kid, algorithm)
        except NotFound:
            found = None
        if found is None or found == instead_of:
            return await self._look_again(issuer, source, state, kid, algorithm)
        return found

    async def _look_again(
        self, issuer: str, source: KeySource, state: _State, kid: str | None, algorithm: str
    ) -> VerificationKey:
        """The issuer may have published a new key, or changed one: one forced fetch per cool-down, claimed before it starts."""
        now = self._clock.now()
        if state.forced_at is None or now - state.forced_at >= COOL_DOWN:
            state.forced_at = now
            await self._try_fetch(issuer, source, state, now)
        try:
            return _pick(state.keys, kid, algorithm)
        except NotFound:
            if state.failed_at is not None:  # the key may exist, we cannot tell: not the caller's fault
                raise Unavailable("identity_provider") from None
            raise

    async def _try_fetch(self, issuer: str, source: KeySource, state: _State, now: datetime) -> None:
        if issuer in self._fetches or self._may_try(state, now):
            await self._fetches.do(issuer, lambda: self._fetch(source, state))

    def _may_try(self, state: _State, now: datetime) -> bool:
        pause = COOL_DOWN if self._good(state) else RETRY_WITHOUT_KEYS
        return state.failed_at is None or now - state.failed_at >= pause

    def _good(self, state: _State) -> bool:
        return state.fetched_at is not None and self._clock.now() - state.fetched_at <= GOOD_FOR

    async def _fetch(self, source: KeySource, state: _State) -> None:
        """Replace the keys by what the issuer publishes now; on any trouble keep what is there."""
        try:
            uri = source.jwks_uri or await self._discover(source.issuer or "", source.origins)
            answer = await self._documents.get(uri, timeout_s=FETCH_TIMEOUT_S, max_bytes=MAX_BYTES)
            if answer.status != 200:
                raise jwk.InvalidKey("was not answered")
            keys = jwk.parse_set_bytes(answer.body)
        except (Unavailable, AnswerTooLarge, ValueError):  # no keys, no JSON, no URL in the discovery document
            state.failed_at = self._clock.now()
            return
        state.keys, state.fetched_at, state.failed_at = keys, self._clock.now(), None

    async def _discover(self, issuer: str, origins: tuple[str, ...]) -> str:
        answer = await self._documents.get(discovery.url_of(issuer), timeout_s=FETCH_TIMEOUT_S, max_bytes=MAX_BYTES)
        document = discovery.read(answer.status, answer.body, issuer=issuer)
        return discovery.endpoint(document, "jwks_uri", discovery.origins((issuer, *origins)))


def source_of(idp: IdentityProvider) -> KeySource:
    return KeySource(jwks_uri=idp.jwks_uri, issuer=idp.issuer, origins=idp.endpoint_origins)


class KeyDirectory:
    """Verification keys of every source this function may trust: our own rings first, then the configured others."""

    def __init__(self, own: Mapping[str, VerificationKeys], others: VerificationKeys) -> None:
        self._own = own
        self._others = others

    async def find(
        self, issuer: str, kid: str | None, algorithm: str, *, instead_of: VerificationKey | None = None
    ) -> VerificationKey:
        backend = self._own.get(issuer, self._others)
        key: VerificationKey = await backend.find(issuer, kid, algorithm, instead_of=instead_of)
        return key


def _pick(keys: KeySet, kid: str | None, algorithm: str) -> VerificationKey:
    """The key that is named, or those that can be meant: where the token or the key set gives no names.

    More than MOST_TRIED of them would let a stranger's token cost us too many verifications: then none is meant.
    """
    named = keys.get(kid) if kid is not None else None
    if named is not None and named.algorithm == algorithm:
        return named
    candidates = [key for key in keys.values() if kid is None or key.kid is None] if named is None else [named]
    fitting = tuple(key for key in candidates if key.algorithm == algorithm)
    if not 1 <= len(fitting) <= MOST_TRIED:
        raise NotFound("kid")
    return fitting[0] if len(fitting) == 1 else OneOf(fitting)
