"""Logging a person in at their identity provider, for the pages they see: code flow with PKCE, nonce and a one-time state.

OpenID Connect Core 1.0 section 3.1; RFC 7636; RFC 9207; RFC 9470 (fresh and strong logins). Before there is a session, the
login is bound to the browser by a cookie: nobody can be logged in as somebody else by a link.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from cab.domain import audit
from cab.domain.configured.deployment import Deployment, IdentityProvider
from cab.domain.errors import BrokerError, Claimed, Reason, Remedy
from cab.domain.identifiers import digest
from cab.ports import (
    AnswerTooLarge,
    Clock,
    HttpAnswer,
    HttpClient,
    NotFound,
    Randomness,
    SecretReader,
    Unavailable,
    VerificationKeys,
)
from cab.protocol import authorization_errors, token_refusals, token_responses
from cab.protocol.client_secrets import with_secret
from cab.protocol.jose import jws
from cab.protocol.pkce import code_challenge
from cab.protocol.tokens import id_tokens
from cab.stores.sessions import BrowserStates, LoginState, ReturnStanding, Session
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.waits import waiting_for
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.identity.verify_token import verify_token
from cab.use_cases.people.idp_metadata import IdpEndpoints, IdpMetadata
from cab.values import immutable

STATE_LIFE: Final = timedelta(minutes=10)
TOKEN_TIMEOUT_S: Final = 8.0
CALLBACK_PATH: Final = "/login/callback"
HOME: Final = "/me"
NEVER: Final = datetime.fromtimestamp(
    0, UTC
)  # the auth_time of a login whose provider does not say: older than any demand
_RETURN_PATHS: Final = re.compile(r"/me|/connect\?connection=[a-z][a-z0-9-]{0,39}|/approvals/[A-Za-z0-9_-]{1,64}")


def return_path(wanted: str | None) -> str:
    """`wanted` if it is one of our own pages a login may lead to, else the home page. There is no free return URL."""
    return wanted if wanted is not None and _RETURN_PATHS.fullmatch(wanted) else HOME


def callback_path(idp: IdentityProvider) -> str:
    """Where the answers of its logins arrive."""
    return CALLBACK_PATH if idp.login.callback is None else f"{CALLBACK_PATH}/{idp.login.callback}"


@immutable
class LoginDemand:
    """How fresh and strong the login must be. `renew` asks for a new one whatever session the provider still has."""

    max_age_s: int | None = None
    renew: bool = False
    acr_values: str | None = None


@immutable
class LoggedIn:
    """A new session; `cookie` goes to the browser and nowhere else."""

    session: Session
    cookie: str
    return_to: str

    def __repr__(self) -> str:
        return "LoggedIn()"


@immutable
class FinishedBefore:
    """The same answer came once more: reloaded, gone back to, or sent twice. It changed nothing."""

    idp_issuer: str
    return_to: str


class LoginFlow:
    def __init__(
        self,
        deployment: Deployment,
        *,
        states: BrowserStates,
        http: HttpClient,
        keys: VerificationKeys,
        client_secrets: SecretReader,
        still_here: StillHere,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._states = states
        self._http = http
        origins = {idp.issuer: idp.endpoint_origins for idp in deployment.identity_providers}
        self._metadata = IdpMetadata(http, clock, origins)
        self._keys = keys
        self._client_secrets = client_secrets
        self._still_here = still_here
        self._clock = clock
        self._randomness = randomness

    async def begin(self, issuer: str, *, browser: str, return_to: str, demand: LoginDemand) -> str:
        """The provider's URL to send the browser to. `browser` is the binding cookie. Raises: Unavailable."""
        idp = self._deployment.identity_provider_by_issuer[issuer]
        endpoints = await self._metadata.endpoints(issuer)
        now = self._clock.now()
        state, nonce, verifier = (self._randomness.token(32) for _ in range(3))
        await self._states.put(
            state,
            LoginState(
                idp_issuer=issuer,
                browser=_browser_digest(browser),
                nonce=nonce,
                code_verifier=verifier,
                return_to=return_path(return_to),
                min_auth_time=_oldest_allowed(demand, now),
                acr_values=demand.acr_values,
                expires_at=now + STATE_LIFE,
            ),
        )
        query = {
            "response_type": "code",
            "client_id": idp.login.client_id,
            "redirect_uri": self._redirect_uri(idp),
            "scope": " ".join(idp.login.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        if demand.max_age_s is not None:
            query["max_age"] = str(demand.max_age_s)
        if demand.renew:
            query["prompt"] = "login"
        if demand.acr_values is not None:
            query["acr_values"] = demand.acr_values
        separator = "&" if "?" in endpoints.authorization_endpoint else "?"
        return f"{endpoints.authorization_endpoint}{separator}{urlencode(query)}"

    async def finish(
        self,
        answer: Mapping[str, str],
        *,
        arrived_at: str,
        browsers: Collection[str],
        before: Session | None,
        cookie_before: str | None,
        facts: Facts,
    ) -> LoggedIn | FinishedBefore:
        """Turn the provider's answer (the callback's query) into a session. The state is spent whatever comes of it.

        `arrived_at` is the callback's path, `browsers` are the binding cookies, `before` and `cookie_before` the session that
        the browser has, which ends.

        Raises: BrokerError STATE_INVALID, STATE_OVER, ISSUER_MISMATCH, LOGIN_CANCELLED, LOGIN_FAILED, CLIENT_MISCONFIGURED,
        STEP_UP_REQUIRED, with the page the login was for where that is known; Unavailable.
        """
        presented = await self._states.take(LoginState, answer.get("state", ""), now=self._clock.now())
        state = None if presented is None else presented.value
        idp = None if state is None else self._deployment.identity_provider_by_issuer.get(state.idp_issuer)
        if (
            presented is None
            or state is None
            or idp is None  # a new configuration since
            or not any(hmac.compare_digest(state.browser, _browser_digest(browser)) for browser in browsers)
        ):
            raise BrokerError(Reason.STATE_INVALID, "This login was not begun in this browser, or it is over.")
        facts.tenant = idp.tenant
        way_on = Remedy(interaction_uri=self._deployment.broker.origin + state.return_to)
        if presented.standing is ReturnStanding.OVER:
            raise BrokerError(Reason.STATE_OVER, "The login took too long.", remedy=way_on)
        if presented.standing is ReturnStanding.AGAIN:
            refused = (presented.outcome or {}).get("refused")
            if refused is not None:
                raise BrokerError(Reason(refused), "The login was refused before.", remedy=way_on)
            return FinishedBefore(state.idp_issuer, state.return_to)
        try:
            _check_callback(arrived_at, idp)
            login = await self._login(idp, state, answer)
        except BrokerError as error:
            error.remedy = replace(error.remedy, interaction_uri=way_on.interaction_uri)
            await self._states.note(answer["state"], state, {"refused": error.reason.value}, now=self._clock.now())
            raise
        facts.subject = audit.Subject(
            key=login.subject,
            idp_issuer=login.idp_issuer,
            groups=list(login.groups),
            groups_unknown=login.groups_unknown,
        )
        facts.client_authenticated = True
        now = self._clock.now()
        session = Session(
            tenant=login.tenant,
            subject=login.subject,
            idp_issuer=login.idp_issuer,
            groups=list(login.groups),
            groups_unknown=login.groups_unknown and login.groups_unknown.value,
            auth_time=NEVER if login.auth_time is None else datetime.fromtimestamp(login.auth_time, UTC),
            acr=login.acr,
            amr=list(login.amr),
            display_name=login.display_name,
            csrf=_kept_csrf(before, login) or self._randomness.token(32),
            expires_at=now + timedelta(seconds=self._deployment.broker.lifetimes.session_s),
            access_ends_at=login.access_ends_at,
        )
        cookie = self._randomness.token(32)  # always a new one: no value known before the login outlives it
        await self._states.put(cookie, session)
        if cookie_before is not None:
            await self._states.end(Session, cookie_before)
        return LoggedIn(session, cookie, state.return_to)

    async def end(self, cookie: str) -> None:
        await self._states.end(Session, cookie)

    async def session(self, cookie: str | None) -> Session | None:
        """The session that still holds: until its end, or until the identity provider ends it."""
        session = None if not cookie else await self._states.read(Session, cookie, now=self._clock.now())
        if session is None or (session.access_ends_at is not None and session.access_ends_at <= self._clock.now()):
            return None
        begun = session.expires_at - timedelta(seconds=self._deployment.broker.lifetimes.session_s)
        why = await self._still_here.ended(
            tenant=session.tenant,
            subject=session.subject,
            idp_issuer=session.idp_issuer,
            login=begun if session.auth_time == NEVER else session.auth_time,
        )
        return session if why is None else None

    def _redirect_uri(self, idp: IdentityProvider) -> str:
        return self._deployment.broker.origin + callback_path(idp)

    # --- the provider's answers ---

    async def _login(self, idp: IdentityProvider, state: LoginState, answer: Mapping[str, str]) -> id_tokens.Login:
        endpoints = await self._metadata.endpoints(idp.issuer)
        _check_issuer(answer.get("iss"), idp, endpoints)
        if "error" in answer:
            raise _refused_login(answer["error"])
        if "code" not in answer:
            raise BrokerError(
                Reason.LOGIN_FAILED,
                "The identity provider did not log you in.",
                why="the callback brings no code",
            )
        id_token = await self._redeem(idp, endpoints, answer["code"], state.code_verifier)
        login = await self._verify(id_token, idp, state.nonce)
        _check_demand(login, state)
        since = login.issued_at or self._clock.now()
        if login.auth_time is not None:
            since = datetime.fromtimestamp(login.auth_time, UTC)
        why = await self._still_here.ended(
            tenant=login.tenant, subject=login.subject, idp_issuer=login.idp_issuer, login=since
        )
        if why is not None:
            raise BrokerError(Reason.LOGIN_FAILED, "The identity provider did not log you in.", why=why)
        return login

    async def _redeem(self, idp: IdentityProvider, endpoints: IdpEndpoints, code: str, verifier: str) -> str:
        """The ID token for the code. Raises: BrokerError LOGIN_FAILED; Unavailable."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri(idp),
            "code_verifier": verifier,
        }
        reference = idp.login.client_secret
        try:
            secret = (await self._client_secrets.access(reference.secret, reference.version)).decode()
        except NotFound as error:
            raise Unavailable("secrets") from error
        form, headers = with_secret(form, idp.login.client_id, secret, in_form=endpoints.posts_client_secret)
        headers["Accept"] = "application/json"
        try:
            with waiting_for("provider"):
                answer = await self._http.post_form(
                    endpoints.token_endpoint, form, headers=headers, timeout_s=TOKEN_TIMEOUT_S
                )
        except (Unavailable, AnswerTooLarge) as error:
            raise Unavailable("identity_provider") from error
        # Read as any token endpoint's answer: what counts of it is signed.
        members = token_responses.members_of(answer.body) if 200 <= answer.status < 300 else {}
        if members is None or answer.status >= 500 or answer.status == 429:
            raise Unavailable("identity_provider")
        id_token = members.get("id_token")
        if not isinstance(id_token, str):
            raise _without_id_token(answer)
        return id_token

    async def _verify(self, id_token: str, idp: IdentityProvider, nonce: str) -> id_tokens.Login:
        """OpenID Connect Core section 3.1.3.7. Raises: BrokerError LOGIN_FAILED; Unavailable."""
        client_id = idp.login.client_id
        try:
            unverified = jws.parse(id_token, allowed_headers=jws.CERTIFICATE_HEADERS)
            if unverified.unverified_issuer != idp.issuer:
                raise jws.TokenRejected("iss is not this identity provider")
            rules = id_tokens.rules(idp, client_id)
            verified = await verify_token(unverified, rules, self._keys, now=self._clock.now())
            return id_tokens.read(verified, idp, client_id=client_id, nonce=nonce)
        except jws.TokenRejected as error:
            raise credential_refused(
                Reason.LOGIN_FAILED, "The identity provider's answer cannot be trusted.", error, token=id_token
            ) from error


def _refused_login(error: str) -> BrokerError:
    """The identity provider sent the browser back with an `error`. Raises: Unavailable where it is away itself."""
    why = f"the callback brings {authorization_errors.named(error)}"
    match authorization_errors.meaning_of(error):
        case authorization_errors.AuthorizationFailure.CANCELLED:
            return BrokerError(Reason.LOGIN_CANCELLED, "The login was cancelled or not allowed.", why=why)
        case authorization_errors.AuthorizationFailure.OUR_FAULT:
            return BrokerError(Reason.CLIENT_MISCONFIGURED, "The identity provider refuses our request.", why=why)
        case authorization_errors.AuthorizationFailure.BUSY:
            raise Unavailable("identity_provider")
        case _:
            return BrokerError(Reason.LOGIN_FAILED, "The identity provider did not log you in.", why=why)


def _without_id_token(answer: HttpAnswer) -> BrokerError:
    """What a token endpoint means that gave none: our registration there is wrong, or this one login failed."""
    why = f"the token endpoint answered {answer.status} without an ID token"
    read = token_responses.parse(answer.body)
    if isinstance(read, token_responses.TokenError):
        refusal = token_refusals.judge(read, status=answer.status, headers=answer.headers)
        if refusal.meaning in (token_refusals.RefusalMeaning.OUR_FAULT, token_refusals.RefusalMeaning.SCOPE):
            return BrokerError(
                Reason.CLIENT_MISCONFIGURED, "The identity provider refuses our client.", why=f"{why}: {refusal.said}"
            )
    return BrokerError(Reason.LOGIN_FAILED, "The identity provider did not log you in.", why=why)


def _kept_csrf(before: Session | None, login: id_tokens.Login) -> str | None:
    """The token of the forms that the same person has open in other tabs."""
    if before is None or (before.tenant, before.subject) != (login.tenant, login.subject):
        return None
    return before.csrf


def _browser_digest(browser: str) -> str:
    return digest("cab-login-browser", browser)


def _oldest_allowed(demand: LoginDemand, now: datetime) -> datetime | None:
    """The earliest auth_time that meets the demand, with leeway for the provider's clock."""
    if demand.renew:
        return now - jws.LEEWAY
    return None if demand.max_age_s is None else now - timedelta(seconds=demand.max_age_s) - jws.LEEWAY


def _check_callback(arrived_at: str, idp: IdentityProvider) -> None:
    """RFC 9700 section 4.4.2: where answers name no issuer, the redirect URI tells whose they are."""
    if arrived_at != callback_path(idp):
        raise BrokerError(
            Reason.ISSUER_MISMATCH,
            "The answer came from another identity provider than the one asked.",
            why="it arrived at the callback of another",
        )


def _check_issuer(iss: str | None, idp: IdentityProvider, endpoints: IdpEndpoints) -> None:
    """RFC 9207 section 2.4: required where advertised, compared wherever present, on error answers too."""
    if iss is None and not endpoints.sends_iss:
        return
    if iss != idp.issuer:
        raise BrokerError(
            Reason.ISSUER_MISMATCH,
            "The answer came from another identity provider than the one asked.",
            why="iss is missing from the callback" if iss is None else "iss of the callback is another issuer",
            claimed=Claimed(issuer=iss),
        )


def _check_demand(login: id_tokens.Login, state: LoginState) -> None:
    """What was asked of the provider is only a wish until its answer says so (OpenID Connect Core section 3.1.2.1)."""
    if state.min_auth_time is not None and (
        login.auth_time is None or datetime.fromtimestamp(login.auth_time, UTC) < state.min_auth_time
    ):
        raise BrokerError(
            Reason.STEP_UP_REQUIRED, "A fresh login is needed, and the identity provider did not ask for one."
        )
    if state.acr_values is not None and login.acr not in state.acr_values.split():
        raise BrokerError(
            Reason.STEP_UP_REQUIRED, "A stronger login is needed, and the identity provider did not ask for one."
        )
