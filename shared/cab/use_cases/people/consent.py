"""From a user's consent to a grant: the tokens into the vault, the document by create or compare-and-set, the event with it.

Payload first, then the document that points to it. When the process dies in between, the user sees an error and connects
again: nothing looks connected that is not, and a payload without its document is never used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from cab.domain import audit
from cab.domain.configured.connections import Connection, Provider
from cab.domain.errors import BrokerError, Reason
from cab.domain.grant_transitions import reconnected
from cab.domain.grants import ENDED, NO_TOKENS, Grant, GrantStatus
from cab.domain.identifiers import is_printable
from cab.encoding import strict_json
from cab.encoding.records import as_json
from cab.ports import AnswerTooLarge, Clock, HttpAnswer, Randomness, Unavailable
from cab.protocol import token_refusals, token_responses
from cab.protocol.token_refusals import RefusalMeaning
from cab.protocol.token_responses import TokenError, Tokens
from cab.stores.grant_payloads import GrantPayloads, default_lifetime, new_payload
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.revoke import RevokeUpstream, Upstream
from cab.values import immutable

_logger = logging.getLogger(__name__)
SAVE_ATTEMPTS: Final = 3
COMMIT_ATTEMPTS: Final = 5
_USUAL_NAMES: Final = ("email", "preferred_username", "login", "username", "name")


@immutable
class ConsentedGrant:
    """What the user agreed to. `draft` is the grant as it was read, or a new one; `replaces` the account that may change."""

    draft: Grant
    connection: Connection
    provider: Provider
    scopes: tuple[str, ...]
    replaces: str | None


@immutable
class RedeemedCode:
    """The provider's answer to the code, unread."""

    answer: HttpAnswer
    received_at: datetime


@immutable
class UpstreamAccount:
    """The upstream account as the provider names it: `id` is what it is, `name` what people call it."""

    id: str | None
    name: str | None


@immutable
class OtherAccount:
    """The consent was given with another upstream account than is connected, and nobody agreed to that."""

    replaces: str  # the id of the connected one
    connected: UpstreamAccount
    chosen: UpstreamAccount
    ended_upstream: bool  # whether the provider confirmed that it took back what it had just given

    def as_noted(self) -> dict[str, Any]:
        """For a second delivery of the same answer, which must ask the same."""
        return asdict(self)

    @classmethod
    def noted(cls, fields: dict[str, Any]) -> OtherAccount:
        accounts = {name: UpstreamAccount(**fields[name]) for name in ("connected", "chosen")}
        return cls(**fields | accounts)


@immutable
class _Saved:
    """A payload in the vault that waits to become the truth."""

    version: int
    scopes: list[str]
    account: UpstreamAccount
    has_refresh_token: bool
    refresh_is_unread: bool
    access_expires_at: datetime | None


class ConsentWriter:
    """Creates and adds grant secrets; has no way to read one."""

    def __init__(
        self,
        store: Grants,
        payloads: GrantPayloads,
        calls: ProviderCalls,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._store = store
        self._payloads = payloads
        self._calls = calls
        self._revoke_upstream = RevokeUpstream(calls)
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness

    async def settle(self, consent: ConsentedGrant, redeemed: RedeemedCode, facts: Facts) -> OtherAccount | None:
        """Make the tokens the grant. With another account than the connected one, nothing is kept and the user is asked.

        Raises: BrokerError AUTHORIZATION_FAILED, STATE_INVALID, GRANT_REVOKED; Unavailable.
        """
        # Saved before anything else is done with them, but for a grant that knows its account: somebody else's tokens must
        # not lie in this user's vault, not even unused.
        must_match = _account_to_match(consent.draft)
        version = None if must_match is not None else await self._save(consent, redeemed)
        tokens = token_responses.parse(redeemed.answer.body, scope_claim=consent.provider.scope_claim)
        if not isinstance(tokens, Tokens):
            raise refused_code(consent, redeemed.answer)
        account = await self._upstream_account(consent.provider, tokens)
        if must_match is not None and must_match not in (account.id, consent.replaces):
            connected = UpstreamAccount(must_match, consent.draft.upstream_account_name)
            return OtherAccount(must_match, connected, account, await self._given_back(consent, tokens, account))
        if version is None:
            version = await self._save(consent, redeemed)
        saved = _Saved(
            version,
            list(consent.scopes if tokens.scopes is None else tokens.scopes),
            account,
            tokens.refresh_token is not None,
            tokens.refresh_is_unread,
            tokens.expires_at(redeemed.received_at, default=default_lifetime(consent.provider)),
        )
        if tokens.refresh_is_unread:  # a release that can read it goes on from it (docs/runbooks/unread-answer.md)
            _logger.error(
                "%s gave a refresh token that cannot be read, connection %s", consent.provider.id, consent.connection.id
            )
        facts.scopes = audit.Scopes(requested=list(consent.scopes), granted=saved.scopes)
        try:
            await self._commit(consent, redeemed, saved, facts)
        except BrokerError:
            await self._given_back(consent, tokens, account)  # the user sees the refusal, whatever comes of this
            raise
        return None

    async def _given_back(self, consent: ConsentedGrant, tokens: Tokens, account: UpstreamAccount) -> bool:
        """Revoke tokens that are not kept. Not where the account is unknown: they could be those of the connected one.

        Best effort, in the one moment in which they are at hand: another account's tokens are never stored.
        """
        connected = consent.draft.upstream_account
        if account.id is None or account.id == connected:
            return False
        token, hint = (
            (tokens.access_token, "access_token")
            if tokens.refresh_token is None
            else (tokens.refresh_token, "refresh_token")
        )
        result = await self._revoke_upstream.token(token, hint, consent.connection, consent.provider)
        return result is Upstream.CONFIRMED

    async def _save(self, consent: ConsentedGrant, redeemed: RedeemedCode) -> int:
        """Raises: Unavailable, also for an answer that cannot be kept."""
        try:
            payload = new_payload(
                consent.draft.model_copy(update={"attempt_id": None}),
                body=redeemed.answer.body,
                status=redeemed.answer.status,
                received_at=redeemed.received_at,
                requested_scopes=consent.scopes,
                base=None,
                provider=consent.provider,
            )
        except AnswerTooLarge as error:
            raise too_large(consent) from error
        for attempt in range(1, SAVE_ATTEMPTS):
            try:
                return await self._payloads.add(consent.draft, payload)
            except Unavailable:
                await asyncio.sleep(0.1 * attempt)
        return await self._payloads.add(consent.draft, payload)

    async def _upstream_account(self, provider: Provider, tokens: Tokens) -> UpstreamAccount:
        """The provider's own id of the account and its name, from the token answer or userinfo. None: it does not say."""
        own_name = provider.account_name_claim
        account = _account(tokens.members, provider, () if own_name is None else (own_name,))
        if provider.userinfo_endpoint is None or (account.id is not None and account.name is not None):
            return account
        try:
            answer = await self._calls.userinfo(provider, access_token=tokens.access_token)
            if answer.status != 200:
                return account
            members = strict_json.load_document(answer.body)
        except (Unavailable, AnswerTooLarge, strict_json.InvalidJson):
            return account
        there = _account(members, provider, _USUAL_NAMES if own_name is None else (own_name,))
        if account.id is None:
            return there
        same = there.id in (None, account.id)  # a name belongs to the account beside it
        return replace(account, name=account.name or there.name) if same else account

    async def _commit(self, consent: ConsentedGrant, redeemed: RedeemedCode, saved: _Saved, facts: Facts) -> None:
        """The document and its audit event in one write. A lost answer is looked up, not written twice."""
        unsure: set[datetime] = set()  # what a grant would say of when it was connected, if an attempt had written it
        for _ in range(COMMIT_ATTEMPTS):
            stored = await self._store.read(consent.draft.grant_id)
            refuse_while_revoking(stored)
            if stored is not None and stored.grant.connected_at in unsure:
                await self._outbox.flush(stored)  # ours, whatever number its tokens have since they were refreshed
                return
            must_match = _account_to_match(stored.grant) if stored else None
            if must_match is not None and must_match not in (saved.account.id, consent.replaces):
                raise BrokerError(Reason.STATE_INVALID, "The connection has changed meanwhile.")
            if stored is not None and self._is_overtaken(stored.grant, consent, saved):
                consent = replace(consent, draft=stored.grant)
                saved = replace(saved, version=await self._save(consent, redeemed))
            now = self._clock.now()
            try:
                done = await self._write(consent, stored, saved, facts, now)
            except Unavailable:
                unsure.add(now)
                continue
            if done is not None:
                await self._outbox.flush(done)
                return
        raise Unavailable("documents")

    def _is_overtaken(self, grant: Grant, consent: ConsentedGrant, saved: _Saved) -> bool:
        """Whether the saved version cannot become the grant's: it was moved, and a version is of one storage only; or a refresh, or
        another consent, has a higher number by now, and what is below the newest is destroyed."""
        return (
            self._payloads.place(grant) != self._payloads.place(consent.draft) or saved.version < grant.secret_version
        )

    async def _write(
        self, consent: ConsentedGrant, stored: StoredGrant | None, saved: _Saved, facts: Facts, now: datetime
    ) -> StoredGrant | None:
        if stored is None:
            first = consent.draft.model_copy(
                update={
                    "secret_version": saved.version,
                    "scopes": saved.scopes,
                    "upstream_account": saved.account.id,
                    "upstream_account_name": saved.account.name,
                    "refresh_version": None if saved.has_refresh_token else NO_TOKENS,
                    "access_expires_at": saved.access_expires_at,
                    "connected_at": now,
                    "refreshed_at": now,
                    # Versions below are of consents that this process or another did not finish.
                    "clean_below": saved.version if saved.version > 1 else None,
                    "replaced_below": saved.version if saved.version > 1 else None,
                    "due_at": now,
                }
            )
            event = self._event(facts, first, cause=_cause("connected", first, saved))
            return await self._store.create(first.model_copy(update={"outbox": [event]}))
        rotation = consent.provider.rotation
        again = stored.grant.model_copy(
            update={
                "provider": consent.provider.id,
                "provider_class": rotation.rotation_class,
                "leeway_s": rotation.leeway_s,
            }
        )
        before = stored.grant
        changed = before.upstream_account not in (None, saved.account.id)
        refresh_version = _refresh_version(before, consent.provider, saved)
        after = again.model_copy(
            update={"seq": again.seq + 1, "secret_version": saved.version, "refresh_version": refresh_version}
        )
        event = self._event(facts, after, cause=_cause("account replaced" if changed else "reconnected", after, saved))
        same_account = before.upstream_account is not None and not changed
        return await self._store.replace(
            stored,
            reconnected(
                again,
                version=saved.version,
                scopes=saved.scopes,
                upstream_account=saved.account.id,
                upstream_account_name=saved.account.name or (before.upstream_account_name if same_account else None),
                refresh_version=refresh_version,
                access_expires_at=saved.access_expires_at,
                now=now,
                event=event,
            ),
        )

    def _event(self, facts: Facts, grant: Grant, *, cause: str) -> dict[str, Any]:
        facts.grant = audit.GrantFacts(
            id=grant.grant_id, seq=grant.seq, secret_version=grant.secret_version, cause=cause
        )
        event = facts.event(event_id=self._randomness.event_id(), outcome=audit.Outcome.EXECUTED, reason=None)
        connected = replace(event, event_type=audit.EventType.GRANT_CONNECTED)
        return as_json(connected)


def _account_to_match(grant: Grant) -> str | None:
    """The account that a new consent must be for. A grant that its user ended says nothing about what they want next."""
    return None if grant.status is GrantStatus.REVOKED else grant.upstream_account


def refused_code(consent: ConsentedGrant, answer: HttpAnswer) -> BrokerError:
    """The refusal behind an answer without tokens: our registration there is wrong, which the operator must fix, or this
    one code was no good. Raises: Unavailable where the system says that it is busy.
    """
    read = token_responses.parse(answer.body)
    error = read if isinstance(read, TokenError) else TokenError(token_responses.UNPARSABLE)
    refusal = token_refusals.judge(error, status=answer.status, headers=answer.headers)
    why = f"the code was refused: {refusal.said}"
    match refusal.meaning:
        case RefusalMeaning.BUSY:
            raise Unavailable("provider")
        case RefusalMeaning.OUR_FAULT | RefusalMeaning.SCOPE:  # docs/runbooks/client-refused.md
            _logger.error(
                "%s refuses our client, connection %s: %s", consent.provider.id, consent.connection.id, refusal.said
            )
            return BrokerError(Reason.CLIENT_MISCONFIGURED, "The connected system refuses our client.", why=why)
        case _:
            return BrokerError(Reason.AUTHORIZATION_FAILED, "The connected system gave no access token.", why=why)


def too_large(consent: ConsentedGrant) -> Unavailable:
    """For an answer that cannot be kept. Trying again will not help, so the operator is told."""
    _logger.error("an answer of %s is too large to be kept, connection %s", consent.provider.id, consent.connection.id)
    return Unavailable("provider")


def refuse_while_revoking(stored: StoredGrant | None) -> None:
    """The revocation under way looks for the newest tokens to revoke upstream: it must not find the new ones."""
    if stored is not None and stored.grant.status is GrantStatus.REVOKING:
        raise BrokerError(Reason.GRANT_REVOKED, "The account is still being disconnected.")


def _refresh_version(before: Grant, provider: Provider, saved: _Saved) -> int | None:
    """As `Grant.refresh_version`. A new answer without a refresh token says nothing about the one that the same account gave
    before (RFC 6749 section 5.1: it is optional); one of an unnamed or other account, or one that has ended, is not used.
    """
    if saved.has_refresh_token:
        return None
    same = (before.upstream_account, before.provider) == (saved.account.id, provider.id)
    if not same or saved.account.id is None or before.status in ENDED or before.status is GrantStatus.NEEDS_REAUTH:
        return NO_TOKENS
    return before.secret_version if before.refresh_version is None else before.refresh_version


def _cause(what: str, grant: Grant, saved: _Saved) -> str:
    """The view `grant_health` counts the ones that do not last by these words."""
    if grant.lasts:
        return what
    return f"{what}, {'its refresh token cannot be read' if saved.refresh_is_unread else 'without a refresh token'}"


def _account(members: Mapping[str, Any], provider: Provider, names: tuple[str, ...]) -> UpstreamAccount:
    found = (_text(token_responses.member_at(members, name)) for name in names)
    return UpstreamAccount(
        _text(token_responses.member_at(members, provider.account_claim)),
        next((name for name in found if name is not None), None),
    )


def _text(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and is_printable(value) else None
