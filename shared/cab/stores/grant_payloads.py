"""Grant payloads: token sets in the vault, one immutable version each, checked against their grant whenever they are read."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections import OrderedDict
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from cab.domain.configured.connections import Provider, RotationClass
from cab.domain.grants import CarriedAccessToken, Grant, Storage, TokenSet, names_itself
from cab.domain.lru import remember
from cab.ports import AnswerTooLarge, NotFound, SecretVault, Unavailable
from cab.protocol import token_responses
from cab.protocol.token_responses import Tokens
from cab.values import immutable

CACHE_SIZE: Final = 1024
MAX_CARRIED: Final = 8  # narrowed access tokens kept beside the newest one
MAX_PAYLOAD_BYTES: Final = 65_536  # of a Secret Manager version
MOST_IN_BASE64: Final = 32 * 1024  # of an answer, before encoding
MOST_UNPACKED: Final = 2 * 1024 * 1024  # of a packed payload: more than the largest answer and what surrounds it
MAX_LAG: Final = (
    400  # versions by which a restored document may lag behind: a day and more, at one refresh in five minutes
)
TOGETHER: Final = 20  # of them read at the same time
MAX_PROBES: Final = 200  # versions looked at beyond the committed one; each is one attempt that ended without a commit


class CorruptPayload(Exception):
    """The version is not an intact payload of this grant."""


class Garbage(CorruptPayload):
    """Ours and intact, but the provider's answer held no token that can be read. `unread`: it may hold one all the same."""

    def __init__(self, stored: TokenSet, *, unread: bool) -> None:
        super().__init__("unread" if unread else "no token")
        self.stored = stored
        self.unread = unread


@immutable
class Usable:
    """An access token with what it is good for."""

    access_token: str = field(repr=False)
    scopes: tuple[str, ...]
    expires_at: datetime | None


@immutable
class Payload:
    """A verified, parsed token set."""

    version: int
    stored: TokenSet
    newest: Usable
    refresh_token: str | None = field(repr=False)

    @property
    def refresh_sha256(self) -> str | None:
        return sha256_or_none(self.refresh_token)

    def all_usable(self) -> list[Usable]:
        carried = [
            Usable(item.access_token, tuple(item.scopes), item.expires_at) for item in self.stored.carried_access_tokens
        ]
        return [self.newest, *carried]


@immutable
class Successors:
    """`newest` is the last token set of a chain. `unread_since`: what may be one more is stored, and nobody here can read it; when
    the token that it was got with was first sent."""

    newest: Payload | None
    unread_since: datetime | None


def secret_id(grant_id: str) -> str:
    return f"cab-grant-{grant_id}"


def sha256_or_none(token: str | None) -> str | None:
    return None if token is None else hashlib.sha256(token.encode()).hexdigest()


class GrantPayloads:
    """`vault` is that of `storage`, where grants are made. While a deployment moves, `before` is where its grants were."""

    def __init__(
        self,
        vault: SecretVault,
        *,
        storage: Storage = "secret_per_grant",
        before: tuple[Storage, SecretVault] | None = None,
    ) -> None:
        self.storage = storage
        self._vaults: dict[Storage, SecretVault] = {storage: vault} | ({before[0]: before[1]} if before else {})
        self._unsaid = before[0] if before else storage
        self._cache: OrderedDict[tuple[str, Storage, int], Payload] = OrderedDict()

    def place(self, grant: Grant) -> Storage:
        """Where the versions of a grant are."""
        return grant.storage or self._unsaid

    def _vault(self, storage: Storage) -> SecretVault:
        vault = self._vaults.get(storage)
        if vault is None:  # the setting for the move was taken back before its end: our outage, no grant is to blame
            raise Unavailable("secrets")
        return vault

    async def load(self, grant: Grant, version: int, provider: Provider) -> Payload:
        """Raises: NotFound, CorruptPayload, Unavailable. Versions are immutable, so a parsed one may be remembered."""
        known = self.known(grant, version)
        if known is None:
            return self.remember(grant, version, await self.raw(grant, version), provider)
        _check_owner(known.stored, grant)
        self._cache.move_to_end((grant.grant_id, self.place(grant), version))
        return known

    def known(self, grant: Grant, version: int) -> Payload | None:
        """The payload of a version that is in memory."""
        return self._cache.get((grant.grant_id, self.place(grant), version))

    async def raw(self, grant: Grant, version: int) -> bytes:
        """Raises: NotFound, Unavailable."""
        return await self._vault(self.place(grant)).access(secret_id(grant.grant_id), version)

    def remember(self, grant: Grant, version: int, raw: bytes, provider: Provider) -> Payload:
        """The payload of a version whose bytes are at hand. Raises: CorruptPayload."""
        payload = read_payload(raw, grant, version, provider)
        remember(self._cache, (grant.grant_id, self.place(grant), version), payload, most=CACHE_SIZE)
        return payload

    async def base(self, grant: Grant, provider: Provider) -> Payload:
        """The payload that the next refresh starts from: the committed one, or that of the attempt under way.

        Where it came without a refresh token, it has that of the consent before, or of what was got with that one since.
        Raises: as `load`.
        """
        payload = await self.load(grant, grant.base_version or grant.secret_version, provider)
        if payload.refresh_token is not None or not grant.refresh_version:
            return payload
        try:
            before = await self.load(grant, grant.refresh_version, provider)
        except (NotFound, CorruptPayload):
            return payload
        newest = await self.successor(grant, before, provider) or before
        return replace(payload, refresh_token=newest.refresh_token)

    async def successor(self, grant: Grant, base: Payload, provider: Provider) -> Payload | None:
        """The newest intact payload that was got with the refresh token of `base`, or with that of such a payload.

        Raises: Unavailable.
        """
        return (await self.successors(grant, base, provider)).newest

    async def successors(self, grant: Grant, base: Payload, provider: Provider) -> Successors:
        """What is stored of answers to the refresh token of `base`, and to those that came of it. Raises: Unavailable."""
        newest: Payload | None = None
        unread_since: datetime | None = None
        tokens = {base.refresh_sha256}
        for _, found in await self._stored_after(grant, base.version, provider):
            stored = found.stored if isinstance(found, Payload | Garbage) else None
            if stored is None or stored.predecessor_sha256 is None or stored.predecessor_sha256 not in tokens:
                continue  # or a consent, which was got with none
            if isinstance(found, Payload):
                tokens.add(found.refresh_sha256)
                newest, unread_since = found, None
            elif isinstance(found, Garbage) and found.unread:
                unread_since = unread_since or stored.received_at
        return Successors(newest, unread_since)

    async def following(self, grant: Grant, after: int, provider: Provider) -> list[tuple[int, Payload | None]]:
        """Every version above `after`, by number until there is none; without its payload where that is garbage.

        Raises: Unavailable.
        """
        stored = await self._stored_after(grant, after, provider)
        return [(version, found if isinstance(found, Payload) else None) for version, found in stored]

    async def _stored_after(
        self, grant: Grant, after: int, provider: Provider
    ) -> list[tuple[int, Payload | CorruptPayload]]:
        found: list[tuple[int, Payload | CorruptPayload]] = []
        for version in range(after + 1, after + 1 + MAX_PROBES):
            try:
                found.append((version, await self.load(grant, version, provider)))
            except CorruptPayload as garbage:
                found.append((version, garbage))
            except NotFound:
                break
        return found

    async def newest(self, grant: Grant, after: int, provider: Provider) -> Payload | None:
        """The newest intact payload above version `after`, for a document that lags behind the vault. Raises: Unavailable.

        Versions in between may be destroyed, so all numbers within reach are tried. Newest by fence first: what a paused
        holder stores after the user reconnected must not win over the new consent.
        """

        async def at(version: int) -> Payload | None:
            try:
                return await self.load(grant, version, provider)
            except (NotFound, CorruptPayload):
                return None

        later: list[Payload] = []
        for first in range(after + 1, after + 1 + MAX_LAG, TOGETHER):
            found = await asyncio.gather(*(at(version) for version in range(first, first + TOGETHER)))
            later += [payload for payload in found if payload is not None]
        return max(later, key=lambda payload: (payload.stored.fence, payload.version), default=None)

    async def add(self, grant: Grant, raw: bytes, *, storage: Storage | None = None) -> int:
        """One durable write where the grant is, or in `storage`; the number under which it can be read there at once.

        Raises Unavailable (it may have been written all the same).
        """
        return await self._vault(storage or self.place(grant)).add(secret_id(grant.grant_id), raw)

    async def create(self, grant: Grant, *, storage: Storage | None = None) -> None:
        await self._vault(storage or self.place(grant)).create(secret_id(grant.grant_id))

    async def destroy(self, grant: Grant, version: int, *, storage: Storage | None = None) -> None:
        where = storage or self.place(grant)
        self._cache.pop((grant.grant_id, where, version), None)
        await self._vault(where).destroy(secret_id(grant.grant_id), version)

    async def may_add(self, grant: Grant) -> bool:
        return await self._vault(self.place(grant)).may_add(secret_id(grant.grant_id))

    async def brought(self, payload: Payload, ours: Grant, current: Grant, provider: Provider) -> Payload:
        """A token set that was stored where the grant was when its attempt began, put where it is now. Raises: Unavailable."""
        if self.place(ours) == self.place(current):
            return payload
        raw = _packed(payload.stored)
        version = await self.add(current, raw)
        await self.destroy(ours, payload.version)
        return self.remember(current, version, raw, provider)


def _check_owner(stored: TokenSet, grant: Grant) -> None:
    """The payload and the document each name their grant, tenant and user: swapped pointers and documents are found here."""
    named = (stored.grant_id, stored.tenant, stored.user_key)
    if named != (grant.grant_id, grant.tenant, grant.subject) or not names_itself(grant):
        raise CorruptPayload


def read_payload(raw: bytes, grant: Grant, version: int, provider: Provider) -> Payload:
    """Raises CorruptPayload."""
    try:
        stored = TokenSet.model_validate_json(_unpacked(raw))
    except ValidationError as error:
        raise CorruptPayload from error
    _check_owner(stored, grant)
    try:
        body = _body_of(stored)
    except ValueError as error:
        raise CorruptPayload from error
    tokens = token_responses.parse(body, scope_claim=provider.scope_claim)
    if not isinstance(tokens, Tokens):
        raise Garbage(stored, unread=tokens.may_hold_tokens)
    if (
        tokens.refresh_is_unread
        and version != grant.secret_version  # what was committed, was taken
        and stored.predecessor_sha256 is not None
        and provider.rotation.rotation_class is not RotationClass.STATIC
    ):
        raise Garbage(stored, unread=True)  # the token carried along is the one that was spent for it
    newest = Usable(
        tokens.access_token,
        tuple(stored.requested_scopes) if tokens.scopes is None else tokens.scopes,
        tokens.expires_at(stored.received_at, default=default_lifetime(provider)),
    )
    return Payload(version, stored, newest, tokens.refresh_token or stored.carried_refresh_token)


def _body_of(stored: TokenSet) -> bytes:
    if stored.response_text is not None:
        return stored.response_text.encode()
    return base64.b64decode(stored.response, validate=True)


def _unpacked(raw: bytes) -> bytes:
    """JSON as it is; anything else was packed because it did not fit. Raises CorruptPayload."""
    if raw.startswith(b"{"):
        return raw
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(raw, MOST_UNPACKED)
    except zlib.error as error:
        raise CorruptPayload from error
    if not unpacker.eof:
        raise CorruptPayload
    return text


def _packed(token_set: TokenSet) -> bytes:
    """Tokens are text in 64 signs or a few more: where three of the greatest length do not fit as they are, they fit packed."""
    raw = token_set.model_dump_json().encode()
    return raw if len(raw) <= MAX_PAYLOAD_BYTES else zlib.compress(raw, 9)


def _as_text(body: bytes) -> str | None:
    """Large answers are kept as text: base64 takes more room, and packs less well."""
    if len(body) <= MOST_IN_BASE64:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def default_lifetime(provider: Provider) -> timedelta | None:
    return None if provider.access_token_lifetime_s is None else timedelta(seconds=provider.access_token_lifetime_s)


def new_payload(
    grant: Grant,
    *,
    body: bytes,
    status: int,
    received_at: datetime,
    requested_scopes: tuple[str, ...],
    base: Payload | None,
    provider: Provider,
) -> bytes:
    """The next payload, from the provider's bytes as they came. Nothing of them is parsed here, unless they do not fit into a
    version even packed: then what this release needs of the answer is kept without the rest, such as an ID token.

    Raises: AnswerTooLarge where neither fits; an answer of which one can be read always does.
    """
    text = _as_text(body)
    token_set = TokenSet(
        grant_id=grant.grant_id,
        tenant=grant.tenant,
        user_key=grant.subject,
        seq=grant.seq + 1 if base else 1,
        attempt_id=grant.attempt_id or "connect",
        fence=grant.fence,
        predecessor_sha256=base.refresh_sha256 if base else None,
        received_at=received_at,
        status=status,
        response="" if text is not None else base64.b64encode(body).decode(),
        response_text=text,
        requested_scopes=list(requested_scopes),
        carried_refresh_token=base.refresh_token if base else None,
    )
    if base is not None and provider.rotation.old_access_token == "lives_on":
        room = MAX_PAYLOAD_BYTES - len(token_set.model_dump_json())
        token_set = token_set.model_copy(update={"carried_access_tokens": _carried(base, received_at, provider, room)})
    raw = _packed(token_set)
    if len(raw) > MAX_PAYLOAD_BYTES:
        least = token_responses.without_the_rest(body, scope_claim=provider.scope_claim)
        raw = _packed(
            token_set.model_copy(update={"response": base64.b64encode(least).decode(), "response_text": None})
        )
    if len(raw) > MAX_PAYLOAD_BYTES:
        raise AnswerTooLarge
    return raw


def _carried(base: Payload, now: datetime, provider: Provider, room: int) -> list[CarriedAccessToken]:
    """Where older access tokens outlive a refresh, the ones with other scopes are kept: no refresh per change of action.

    As many as `room` bytes allow: a payload that does not fit into a version would be a lost grant.
    """
    soon = now + timedelta(seconds=provider.refresh_margin_s)
    carried: list[CarriedAccessToken] = []
    for item in base.all_usable():
        if item.expires_at is None or item.expires_at <= soon or len(carried) == MAX_CARRIED:
            continue
        kept = CarriedAccessToken(access_token=item.access_token, scopes=list(item.scopes), expires_at=item.expires_at)
        room -= len(kept.model_dump_json()) + 1
        if room >= 0:
            carried.append(kept)
    return carried
