"""Connecting a user's account at a downstream system: our consent page, theirs, and the grant that comes of both.

One browser session and one user from start to end; a state that exists only after the person agreed on our page, is used
once and lives ten minutes; PKCE; one redirect URI per connection; `iss` compared (RFC 6749 section 4.1, RFC 7636, RFC 9207,
RFC 9700 sections 2.1 and 4.4). Creates and adds grant secrets, and never reads one.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from cab.domain import audit
from cab.domain.configured.connections import Connection, GrantKind, Provider
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import SERVABLE, Grant, grant_id
from cab.domain.identifiers import digest
from cab.ports import AnswerTooLarge, Clock, NotFound, Randomness, Unavailable
from cab.protocol import authorization_errors
from cab.protocol.pkce import code_challenge
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants
from cab.stores.sessions import AccountQuestion, BrowserStates, ConnectState, ReturnStanding, Session
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.people.consent import (
    ConsentedGrant,
    ConsentWriter,
    OtherAccount,
    RedeemedCode,
    refuse_while_revoking,
    refused_code,
    too_large,
)
from cab.use_cases.people.enabled_actions import EnabledAction, enabled_actions
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.values import immutable

STATE_LIFE: Final = timedelta(minutes=10)


@immutable
class Visitor:
    """The person as this browser knows them. `browser` is the digest of what their chain of sessions is known by: what was begun
    in one tab outlives a new login of the same person in another."""

    session: Session
    browser: str

    @classmethod
    def of(cls, session: Session) -> Visitor:
        return cls(session, digest("cab-connect-browser", session.csrf))


@immutable
class Consent:
    """What our consent page shows before anything starts. `grant` is what the user consented to before, if anything."""

    connection: Connection
    provider: Provider
    enabled: tuple[EnabledAction, ...]
    grant: Grant | None


@immutable
class Connected:
    """`before`: the same answer came once more, reloaded or sent twice, and changed nothing."""

    connection: Connection
    before: bool = False


@immutable
class AnotherAccount:
    """The consent was given for another upstream account than the grant has. `question` is the secret of the answer's form."""

    connection: Connection
    account: OtherAccount
    question: str


@immutable
class ConnectionResult:
    """A connected account as its user sees it: what works, and what the provider did not grant."""

    connection: Connection
    grant: Grant
    enabled: tuple[EnabledAction, ...]
    missing: tuple[EnabledAction, ...]


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
        self._writer = ConsentWriter(store, payloads, calls, outbox, clock, randomness)
        self._clock = clock
        self._randomness = randomness

    # --- before ---

    async def consent(self, visitor: Visitor, connection_id: str) -> Consent:
        """Raises: BrokerError NOT_FOUND for what is not there, not of this tenant, or needs no account, TARGET_NOT_ALLOWED for
        what the organisation approves instead of its users; Unavailable.
        """
        connection = self._connection(visitor, connection_id)
        stored = await self._store.read(self._grant_id(visitor, connection))
        return Consent(
            connection,
            self._deployment.provider_of(connection),
            enabled_actions(self._deployment, connection, visitor.session.tenant),
            stored.grant if stored and stored.grant.keeps_tokens else None,
        )

    async def start(self, visitor: Visitor, connection_id: str, facts: Facts) -> str:
        """The person agreed on our page: the provider's URL to send the browser to. Only now is there a state.

        Raises: BrokerError NOT_FOUND, GRANT_REVOKED while a disconnect is still under way; Unavailable.
        """
        return await self._start(visitor, self._connection(visitor, connection_id), facts, replaces=None)

    async def _start(self, visitor: Visitor, connection: Connection, facts: Facts, *, replaces: str | None) -> str:
        self._note(facts, visitor, connection)
        refuse_while_revoking(await self._store.read(self._grant_id(visitor, connection)))
        state, verifier = self._randomness.token(32), self._randomness.token(32)
        await self._states.put(
            state,
            ConnectState(
                tenant=visitor.session.tenant,
                subject=visitor.session.subject,
                connection=connection.id,
                session=visitor.browser,
                code_verifier=verifier,
                replaces=replaces,
                expires_at=self._clock.now() + STATE_LIFE,
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

        Raises: BrokerError STATE_INVALID, STATE_OVER, STATE_USED, ISSUER_MISMATCH, CONSENT_REFUSED, AUTHORIZATION_FAILED,
        CLIENT_MISCONFIGURED, GRANT_REVOKED; Unavailable.
        """
        now = self._clock.now()
        presented = await self._states.take(ConnectState, answer.get("state", ""), now=now)
        state = None if presented is None else presented.value
        if (
            visitor is None
            or presented is None
            or state is None
            or not _belongs(state, visitor)
            or state.connection != connection_id
        ):
            raise BrokerError(Reason.STATE_INVALID, "This was not begun in this browser by you, or it is over.")
        connection = self._connection(visitor, connection_id)
        if presented.standing is ReturnStanding.OVER:
            raise BrokerError(Reason.STATE_OVER, "Connecting took too long.")
        if presented.standing is ReturnStanding.AGAIN:
            return await self._once_more(visitor, connection, presented.outcome or {})
        try:
            outcome = await self._finish(visitor, connection, state, answer, facts)
        except BrokerError as error:
            await self._states.note(answer["state"], state, {"refused": error.reason.value}, now=now)
            raise
        noted: dict[str, Any] = (
            {"connected": True} if isinstance(outcome, Connected) else {"asked": outcome.account.as_noted()}
        )
        await self._states.note(answer["state"], state, noted, now=now)
        return outcome

    async def _once_more(
        self, visitor: Visitor, connection: Connection, outcome: dict[str, Any]
    ) -> Connected | AnotherAccount:
        """The answer to a second delivery: what came of the first one, as far as it still holds."""
        if "refused" in outcome:
            raise BrokerError(Reason(outcome["refused"]), "This was refused before.")
        stored = await self._store.read(self._grant_id(visitor, connection))
        grant = None if stored is None else stored.grant
        if "connected" in outcome and grant is not None and grant.keeps_tokens and grant.status in SERVABLE:
            return Connected(connection, before=True)
        if "asked" in outcome:
            asked = OtherAccount.noted(outcome["asked"])
            if grant is not None and grant.upstream_account == asked.replaces:
                return await self._ask(visitor, connection, asked)
        raise BrokerError(Reason.STATE_USED, "This answer was received before.")

    async def _finish(
        self, visitor: Visitor, connection: Connection, state: ConnectState, answer: Mapping[str, str], facts: Facts
    ) -> Connected | AnotherAccount:
        provider = self._deployment.provider_of(connection)
        self._note(facts, visitor, connection)
        _check_issuer(answer.get("iss"), provider)
        if "error" in answer:
            raise _refused_consent(answer["error"])
        if "code" not in answer:
            raise BrokerError(
                Reason.AUTHORIZATION_FAILED,
                "The connected system did not give access.",
                why="the callback brings no code",
            )
        stored = await self._store.read(self._grant_id(visitor, connection))
        refuse_while_revoking(stored)
        consent = ConsentedGrant(
            draft=stored.grant if stored else self._new_grant(visitor, connection, provider),
            connection=connection,
            provider=provider,
            scopes=self._scopes(connection),
            replaces=state.replaces,
        )
        redeemed = await self._redeem(connection, consent, answer["code"], state.code_verifier)
        account = await self._writer.settle(consent, redeemed, facts)
        if isinstance(account, OtherAccount):
            return await self._ask(visitor, connection, account)
        return Connected(connection)

    async def _redeem(self, connection: Connection, consent: ConsentedGrant, code: str, verifier: str) -> RedeemedCode:
        """Code to tokens. The secret is made first: a code is never spent for tokens that cannot be kept."""
        await self._payloads.create(consent.draft)
        try:
            await self._calls.prepare(connection)
            answer = await self._calls.redeem_code(
                connection,
                consent.provider,
                code=code,
                redirect_uri=self._redirect_uri(connection),
                code_verifier=verifier,
            )
        except NotFound as error:
            raise Unavailable("secrets") from error
        except AnswerTooLarge as error:
            raise too_large(consent) from error
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable("provider")
        if not 200 <= answer.status < 300:
            raise refused_code(consent, answer)
        return RedeemedCode(answer, self._clock.now())

    # --- another account ---

    async def _ask(self, visitor: Visitor, connection: Connection, account: OtherAccount) -> AnotherAccount:
        question = self._randomness.token(32)
        await self._states.put(
            question,
            AccountQuestion(
                tenant=visitor.session.tenant,
                subject=visitor.session.subject,
                connection=connection.id,
                session=visitor.browser,
                replaces=account.replaces,
                expires_at=self._clock.now() + STATE_LIFE,
            ),
        )
        return AnotherAccount(connection, account, question)

    async def replace_account(self, visitor: Visitor, question: str, facts: Facts) -> str:
        """The person means to replace the account: the provider's URL, for a consent that may be given with any account.

        Raises: BrokerError STATE_INVALID, STATE_OVER, STATE_USED, GRANT_REVOKED; Unavailable.
        """
        asked = await self._answered(visitor, question)
        return await self._start(visitor, self._connection(visitor, asked.connection), facts, replaces=asked.replaces)

    async def keep_account(self, visitor: Visitor, question: str) -> None:
        """The other account was a mistake: nothing has changed, and the question is spent. Raises: as `replace_account`."""
        await self._answered(visitor, question)

    async def _answered(self, visitor: Visitor, question: str) -> AccountQuestion:
        presented = await self._states.take(AccountQuestion, question, now=self._clock.now())
        if presented is None or not _belongs(presented.value, visitor):
            raise BrokerError(Reason.STATE_INVALID, "This question was not put to you in this browser, or it is over.")
        way_on = Remedy(interaction_uri=self._deployment.broker.connect_uri(presented.value.connection))
        if presented.standing is ReturnStanding.OVER:
            raise BrokerError(Reason.STATE_OVER, "The question is too old.", remedy=way_on)
        if presented.standing is ReturnStanding.AGAIN:
            raise BrokerError(Reason.STATE_USED, "This question was answered before.", remedy=way_on)
        return presented.value

    # --- the result ---

    async def result(self, visitor: Visitor, connection_id: str) -> ConnectionResult:
        """Raises: BrokerError NOT_FOUND when the user has no live grant there; Unavailable."""
        connection = self._connection(visitor, connection_id)
        stored = await self._store.read(self._grant_id(visitor, connection))
        if stored is None or not stored.grant.keeps_tokens or stored.grant.status not in SERVABLE:
            raise BrokerError(Reason.NOT_FOUND, "There is no such connection.")
        enabled = enabled_actions(self._deployment, connection, visitor.session.tenant)
        names = self._deployment.provider_of(connection).scope_names
        missing = tuple(
            item
            for item in enabled
            if names.missing(connection.needed_of_grant(item.action.scopes), stored.grant.scopes)
        )
        working = tuple(item for item in enabled if item not in missing)
        return ConnectionResult(connection, stored.grant, working, missing)

    def _new_grant(self, visitor: Visitor, connection: Connection, provider: Provider) -> Grant:
        return Grant(
            grant_id=self._grant_id(visitor, connection),
            tenant=visitor.session.tenant,
            subject=visitor.session.subject,
            connection=connection.id,
            provider=provider.id,
            provider_class=provider.rotation.rotation_class,
            leeway_s=provider.rotation.leeway_s,
            storage=self._payloads.storage,
            connected_at=self._clock.now(),
        )

    # --- names ---

    def _connection(self, visitor: Visitor, connection_id: str) -> Connection:
        connection = self._deployment.connection_by_id.get(connection_id)
        if connection is None or visitor.session.tenant not in connection.tenants:
            raise BrokerError(Reason.NOT_FOUND, "There is nothing to connect under this name.")
        if connection.grant_kind.is_trusted:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "The organisation approved this system for its users.")
        if connection.grant_kind is not GrantKind.AUTHORIZATION_CODE:
            raise BrokerError(Reason.NOT_FOUND, "There is nothing to connect under this name.")
        return connection

    def _redirect_uri(self, connection: Connection) -> str:
        return f"{self._deployment.broker.origin}/connect/callback/{connection.id}"

    def _scopes(self, connection: Connection) -> tuple[str, ...]:
        base = self._deployment.provider_of(connection).base_scopes
        return tuple(dict.fromkeys((*base, *connection.consent_scopes)))

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


def _refused_consent(error: str) -> BrokerError:
    """The system sent the browser back with an `error`. Raises: Unavailable where it is away itself."""
    why = f"the callback brings {authorization_errors.named(error)}"
    match authorization_errors.meaning_of(error):
        case authorization_errors.AuthorizationFailure.CANCELLED:
            return BrokerError(Reason.CONSENT_REFUSED, "The connected system did not give access.", why=why)
        case authorization_errors.AuthorizationFailure.OUR_FAULT:
            return BrokerError(Reason.CLIENT_MISCONFIGURED, "The connected system refuses our request.", why=why)
        case authorization_errors.AuthorizationFailure.BUSY:
            raise Unavailable("provider")
        case _:
            return BrokerError(Reason.AUTHORIZATION_FAILED, "The connected system did not give access.", why=why)


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
