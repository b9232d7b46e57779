"""Connecting a user's account at a downstream system: our consent page, theirs, and the grant that comes of both.

One browser session and one user from start to end; a state that exists only after the person agreed on our page, is used
once and lives ten minutes; PKCE; one redirect URI per connection; `iss` compared (RFC 6749 section 4.1, RFC 7636, RFC 9207,
RFC 9700 sections 2.1 and 4.4). Creates and adds grant secrets, and never reads one.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain import audit
from cab.domain.connections import Connection, GrantKind, Provider
from cab.domain.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grant_transitions import reconnected
from cab.domain.grants import SERVABLE, Grant, GrantStatus, grant_id
from cab.domain.identifiers import digest, is_printable
from cab.ports import AnswerTooLarge, Clock, HttpAnswer, Randomness, Unavailable
from cab.protocol import strict_json, token_responses
from cab.protocol.pkce import code_challenge
from cab.protocol.token_responses import Tokens
from cab.stores.grants import Grants, StoredGrant
from cab.stores.sessions import AccountQuestion, BrowserStates, ConnectState, Session
from cab.use_cases.auditing import Facts
from cab.use_cases.enabled_actions import EnabledAction, enabled_actions
from cab.use_cases.grant_payloads import GrantPayloads, default_lifetime, new_token_set
from cab.use_cases.outbox import Outbox
from cab.use_cases.provider_calls import ProviderCalls

STATE_LIFE: Final = timedelta(minutes=10)
SAVE_ATTEMPTS: Final = 3
COMMIT_ATTEMPTS: Final = 5
# A grant that ended says nothing about which account its user wants next.
_FORGOTTEN: Final = frozenset({GrantStatus.REVOKED})


@dataclass(frozen=True, slots=True)
class Visitor:
    """The person as this browser knows them. `browser` is the digest of the session cookie."""

    session: Session
    browser: str

    @classmethod
    def of(cls, session: Session, cookie: str) -> Visitor:
        return cls(session, digest("cab-connect-browser", cookie))


@dataclass(frozen=True, slots=True)
class Consent:
    """What our consent page shows before anything starts."""

    connection: Connection
    provider: Provider
    enabled: tuple[EnabledAction, ...]
    grant: Grant | None


@dataclass(frozen=True, slots=True)
class Connected:
    connection: Connection


@dataclass(frozen=True, slots=True)
class AnotherAccount:
    """The consent was given for another upstream account than the grant has. `question` is the secret of the answer's form."""

    connection: Connection
    previous_account: str
    upstream_account: str | None
    question: str


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """A connected account as its user sees it: what works, and what the provider did not grant."""

    connection: Connection
    grant: Grant
    enabled: tuple[EnabledAction, ...]
    missing: tuple[EnabledAction, ...]


@dataclass(frozen=True, slots=True)
class _NewTokens:
    """A stored token set that waits to become the truth."""

    secret_ver: int
    scopes: list[str]
    upstream_account: str | None
    access_expires_at: datetime | None


class ConnectAccount:
    def __init__(
        self,
        deployment: Deployment,
        *,
        states: BrowserStates,
        store: Grants,
        payloads: GrantPayloads,
        calls: ProviderCalls,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._states = states
        self._store = store
        self._payloads = payloads
        self._calls = calls
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness

    # --- before ---

    async def consent(self, visitor: Visitor, connection_id: str) -> Consent:
        """Raises: BrokerError NOT_FOUND for what is not there, not of this tenant, or needs no account; Unavailable."""
        connection = self._connection(visitor, connection_id)
        stored = await self._store.read(self._grant_id(visitor, connection))
        return Consent(
            connection,
            self._deployment.provider_of(connection),
            enabled_actions(self._deployment, connection, visitor.session.tenant),
            stored.grant if stored else None,
        )

    async def start(self, visitor: Visitor, connection_id: str, facts: Facts) -> str:
        """The person agreed on our page: the provider's URL to send the browser to. Only now is there a state.

        Raises: BrokerError NOT_FOUND, GRANT_REVOKED while a disconnect is still under way; Unavailable.
        """
        connection = self._connection(visitor, connection_id)
        self._note(facts, visitor, connection)
        stored = await self._store.read(self._grant_id(visitor, connection))
        _refuse_while_revoking(stored)
        state, verifier = self._randomness.token(32), self._randomness.token(32)
        now = self._clock.now()
        await self._states.put(
            state,
            ConnectState(
                tenant=visitor.session.tenant,
                subject=visitor.session.subject,
                connection=connection.id,
                session=visitor.browser,
                code_verifier=verifier,
                expires_at=now + STATE_LIFE,
            ),
        )
        return self._calls.authorization_url(
            connection,
            self._deployment.provider_of(connection),
            redirect_uri=self._redirect_uri(connection),
            state=state,
            code_challenge=code_challenge(verifier),
            scopes=self._scopes(connection),
        )

    # --- after ---

    async def finish(
        self, visitor: Visitor | None, connection_id: str, answer: Mapping[str, str], facts: Facts
    ) -> Connected | AnotherAccount:
        """Turn the provider's answer (the callback's query) into a grant. The state is spent whatever comes of it.

        Raises: BrokerError STATE_INVALID, ISSUER_MISMATCH, CONSENT_REFUSED, AUTHORIZATION_FAILED, GRANT_REVOKED; Unavailable.
        """
        state = await self._states.take(ConnectState, answer.get("state", ""), now=self._clock.now())
        if visitor is None or state is None or not _belongs(state, visitor) or state.connection != connection_id:
            raise BrokerError(Reason.STATE_INVALID, "This was not begun in this browser by you, or it is over.")
        connection = self._connection(visitor, connection_id)
        provider = self._deployment.provider_of(connection)
        self._note(facts, visitor, connection)
        _check_issuer(answer.get("iss"), provider)
        if "error" in answer:
            reason = Reason.CONSENT_REFUSED if answer["error"] == "access_denied" else Reason.AUTHORIZATION_FAILED
            raise BrokerError(reason, "The connected system did not give access.")
        if "code" not in answer:
            raise BrokerError(Reason.AUTHORIZATION_FAILED, "The connected system did not give access.")
        stored = await self._store.read(self._grant_id(visitor, connection))
        _refuse_while_revoking(stored)
        tokens = await self._redeem_and_save(visitor, connection, provider, stored, answer["code"], state)
        facts.scopes = audit.Scopes(requested=list(self._scopes(connection)), granted=tokens.scopes)
        if stored is not None and _is_another_account(stored.grant, tokens):
            return await self._ask(visitor, connection, stored.grant, tokens)
        await self._commit(visitor, connection, tokens, facts, replacing=None)
        return Connected(connection)

    async def accept_account(self, visitor: Visitor, question: str, facts: Facts) -> Connected:
        """The person said that the other account is meant. Raises: BrokerError STATE_INVALID, GRANT_REVOKED; Unavailable."""
        asked = await self._states.take(AccountQuestion, question, now=self._clock.now())
        if asked is None or not _belongs(asked, visitor):
            raise BrokerError(Reason.STATE_INVALID, "This question was not put to you in this browser, or it is over.")
        connection = self._connection(visitor, asked.connection)
        self._note(facts, visitor, connection)
        facts.scopes = audit.Scopes(requested=list(self._scopes(connection)), granted=asked.scopes)
        tokens = _NewTokens(asked.secret_ver, asked.scopes, asked.upstream_account, asked.access_expires_at)
        await self._commit(visitor, connection, tokens, facts, replacing=asked.previous_account)
        return Connected(connection)

    async def decline_account(self, visitor: Visitor, question: str) -> Connection:
        """The other account was a mistake: the grant stays as it is. The stored tokens are never used, and are destroyed
        with the versions before the next refresh's."""
        asked = await self._states.take(AccountQuestion, question, now=self._clock.now())
        if asked is None or not _belongs(asked, visitor):
            raise BrokerError(Reason.STATE_INVALID, "This question was not put to you in this browser, or it is over.")
        return self._connection(visitor, asked.connection)

    async def result(self, visitor: Visitor, connection_id: str) -> ConnectionResult:
        """Raises: BrokerError NOT_FOUND when the user has no live grant there; Unavailable."""
        connection = self._connection(visitor, connection_id)
        stored = await self._store.read(self._grant_id(visitor, connection))
        if stored is None or stored.grant.status not in SERVABLE:
            raise BrokerError(Reason.NOT_FOUND, "There is no such connection.")
        enabled = enabled_actions(self._deployment, connection, visitor.session.tenant)
        missing = tuple(item for item in enabled if not set(item.action.scopes) <= set(stored.grant.scopes))
        working = tuple(item for item in enabled if item not in missing)
        return ConnectionResult(connection, stored.grant, working, missing)

    # --- tokens ---

    async def _redeem_and_save(
        self,
        visitor: Visitor,
        connection: Connection,
        provider: Provider,
        stored: StoredGrant | None,
        code: str,
        state: ConnectState,
    ) -> _NewTokens:
        """Code to tokens, tokens to the vault, and only then a look at them.

        The secret is made first: a code is never spent for tokens that cannot be kept. When the process dies in between, the
        user sees an error and connects again; nothing that looks connected is not.
        """
        draft = stored.grant if stored else self._new_grant(visitor, connection, provider)
        await self._payloads.create(draft.grant_id)
        await self._calls.prepare(connection)
        try:
            answer = await self._calls.redeem_code(
                connection,
                provider,
                code=code,
                redirect_uri=self._redirect_uri(connection),
                code_verifier=state.code_verifier,
            )
        except AnswerTooLarge as error:
            raise Unavailable("provider") from error
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable("provider")
        if not 200 <= answer.status < 300:
            raise BrokerError(Reason.AUTHORIZATION_FAILED, "The connected system did not accept its own code.")
        received_at = self._clock.now()
        version = await self._save(draft, provider, answer, received_at, self._scopes(connection))
        tokens = token_responses.parse(answer.body)
        if not isinstance(tokens, Tokens):
            raise BrokerError(Reason.AUTHORIZATION_FAILED, "The connected system gave no access token.")
        return _NewTokens(
            version,
            list(self._scopes(connection) if tokens.scopes is None else tokens.scopes),
            await self._upstream_account(provider, tokens),
            tokens.expires_at(received_at, default=default_lifetime(provider)),
        )

    async def _save(
        self, draft: Grant, provider: Provider, answer: HttpAnswer, received_at: datetime, scopes: tuple[str, ...]
    ) -> int:
        token_set = new_token_set(
            draft.model_copy(update={"attempt_id": None}),
            body=answer.body,
            status=answer.status,
            received_at=received_at,
            requested_scopes=scopes,
            base=None,
            provider=provider,
        )
        for attempt in range(1, SAVE_ATTEMPTS):
            try:
                return await self._payloads.add(draft.grant_id, token_set)
            except Unavailable:
                await asyncio.sleep(0.1 * attempt)
        return await self._payloads.add(draft.grant_id, token_set)

    async def _upstream_account(self, provider: Provider, tokens: Tokens) -> str | None:
        """The provider's own id of the account, from the token answer or userinfo. None when it does not say."""
        account = _account(tokens.members, provider)
        if account is not None or provider.userinfo_endpoint is None:
            return account
        try:
            answer = await self._calls.userinfo(provider, access_token=tokens.access_token)
            return _account(strict_json.load_object(answer.body), provider) if answer.status == 200 else None
        except (Unavailable, AnswerTooLarge, strict_json.InvalidJson):
            return None

    # --- the grant ---

    async def _ask(self, visitor: Visitor, connection: Connection, grant: Grant, tokens: _NewTokens) -> AnotherAccount:
        question = self._randomness.token(32)
        previous = grant.upstream_account or ""
        await self._states.put(
            question,
            AccountQuestion(
                tenant=visitor.session.tenant,
                subject=visitor.session.subject,
                connection=connection.id,
                session=visitor.browser,
                secret_ver=tokens.secret_ver,
                scopes=tokens.scopes,
                previous_account=previous,
                upstream_account=tokens.upstream_account,
                access_expires_at=tokens.access_expires_at,
                expires_at=self._clock.now() + STATE_LIFE,
            ),
        )
        return AnotherAccount(connection, previous, tokens.upstream_account, question)

    async def _commit(
        self, visitor: Visitor, connection: Connection, tokens: _NewTokens, facts: Facts, *, replacing: str | None
    ) -> None:
        """Make the stored tokens the grant's truth, by create or compare-and-set, with the audit event in the same write.

        `replacing` is the account whose replacement the person agreed to. A lost answer is looked up, not written twice.
        """
        name = self._grant_id(visitor, connection)
        for _ in range(COMMIT_ATTEMPTS):
            stored = await self._store.read(name)
            _refuse_while_revoking(stored)
            if stored is not None and stored.grant.secret_ver == tokens.secret_ver:
                await self._outbox.flush(stored)  # ours, written by an attempt whose answer was lost
                return
            if (
                stored is not None
                and _is_another_account(stored.grant, tokens)
                and (stored.grant.upstream_account != replacing)
            ):
                raise BrokerError(Reason.STATE_INVALID, "The connection has changed meanwhile.")
            try:
                done = await self._write(visitor, connection, stored, tokens, facts, replacing=replacing)
            except Unavailable:
                continue
            if done is not None:
                await self._outbox.flush(done)
                return
        raise Unavailable("documents")

    async def _write(
        self,
        visitor: Visitor,
        connection: Connection,
        stored: StoredGrant | None,
        tokens: _NewTokens,
        facts: Facts,
        *,
        replacing: str | None,
    ) -> StoredGrant | None:
        now = self._clock.now()
        provider = self._deployment.provider_of(connection)
        if stored is None:
            first = self._new_grant(visitor, connection, provider).model_copy(
                update={
                    "secret_ver": tokens.secret_ver,
                    "scopes": tokens.scopes,
                    "upstream_account": tokens.upstream_account,
                    "access_expires_at": tokens.access_expires_at,
                    "refreshed_at": now,
                    "due_at": now,
                }
            )
            event = self._event(facts, first, cause="connected")
            return await self._store.create(first.model_copy(update={"outbox": [event]}))
        again = stored.grant.model_copy(
            update={
                "provider": provider.id,
                "provider_class": provider.rotation.rotation_class,
                "leeway_s": provider.rotation.leeway_s,
            }
        )
        cause = "account replaced" if replacing is not None else "reconnected"
        facts_of = again.model_copy(update={"seq": again.seq + 1, "secret_ver": tokens.secret_ver})
        return await self._store.replace(
            stored,
            reconnected(
                again,
                version=tokens.secret_ver,
                scopes=tokens.scopes,
                upstream_account=tokens.upstream_account,
                access_expires_at=tokens.access_expires_at,
                now=now,
                event=self._event(facts, facts_of, cause=cause),
            ),
        )

    def _new_grant(self, visitor: Visitor, connection: Connection, provider: Provider) -> Grant:
        return Grant(
            grant_id=self._grant_id(visitor, connection),
            tenant=visitor.session.tenant,
            subject=visitor.session.subject,
            connection=connection.id,
            provider=provider.id,
            provider_class=provider.rotation.rotation_class,
            leeway_s=provider.rotation.leeway_s,
            connected_at=self._clock.now(),
        )

    def _event(self, facts: Facts, grant: Grant, *, cause: str) -> dict[str, Any]:
        facts.grant = audit.GrantFacts(id=grant.grant_id, seq=grant.seq, secret_version=grant.secret_ver, cause=cause)
        event = facts.event(event_id=self._randomness.event_id(), outcome=audit.Outcome.EXECUTED, reason=None)
        connected = event.model_copy(update={"event_type": audit.EventType.GRANT_CONNECTED})
        return connected.model_dump(mode="json", exclude_none=True)

    # --- names ---

    def _connection(self, visitor: Visitor, connection_id: str) -> Connection:
        connection = self._deployment.connection_by_id.get(connection_id)
        if (
            connection is None
            or visitor.session.tenant not in connection.tenants
            or connection.grant_kind is not GrantKind.AUTHORIZATION_CODE
        ):
            raise BrokerError(Reason.NOT_FOUND, "There is nothing to connect under this name.")
        return connection

    def _redirect_uri(self, connection: Connection) -> str:
        return f"{self._deployment.broker.origin}/connect/callback/{connection.id}"

    def _scopes(self, connection: Connection) -> tuple[str, ...]:
        base = self._deployment.provider_of(connection).base_scopes
        return tuple(dict.fromkeys((*base, *connection.all_scopes)))

    def _grant_id(self, visitor: Visitor, connection: Connection) -> str:
        return grant_id(visitor.session.tenant, visitor.session.subject, connection.id)

    def _note(self, facts: Facts, visitor: Visitor, connection: Connection) -> None:
        facts.tool = audit.Tool(connection=connection.id, provider=connection.provider)
        facts.grant = audit.GrantFacts(id=self._grant_id(visitor, connection))


def _belongs(state: ConnectState | AccountQuestion, visitor: Visitor) -> bool:
    """Same browser session and same user as at the start: a link to somebody else's half-done consent leads nowhere."""
    return (
        hmac.compare_digest(state.session, visitor.browser)
        and state.subject == visitor.session.subject
        and state.tenant == visitor.session.tenant
    )


def _check_issuer(iss: str | None, provider: Provider) -> None:
    """RFC 9207 section 2.4: required where the provider's profile says so, compared wherever present, on error answers too.

    NOTE: a provider whose profile names no issuer cannot be compared; its own redirect URI then tells its answers apart.
    """
    if iss is None and provider.iss_parameter != "required":
        return
    if provider.issuer is None and provider.iss_parameter != "required":
        return
    if iss != provider.issuer:
        raise BrokerError(Reason.ISSUER_MISMATCH, "The answer came from another system than the one asked.")


def _is_another_account(grant: Grant, tokens: _NewTokens) -> bool:
    """Whether a live grant would silently change whose account it is. An account that cannot be told counts as another."""
    return (
        grant.status not in _FORGOTTEN
        and grant.upstream_account is not None
        and grant.upstream_account != tokens.upstream_account
    )


def _refuse_while_revoking(stored: StoredGrant | None) -> None:
    """The revocation under way looks for the newest tokens to revoke upstream: it must not find the new ones."""
    if stored is not None and stored.grant.status is GrantStatus.REVOKING:
        raise BrokerError(Reason.GRANT_REVOKED, "The account is still being disconnected.")


def _account(members: Mapping[str, Any], provider: Provider) -> str | None:
    value = members.get(provider.account_claim)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and is_printable(value) else None
