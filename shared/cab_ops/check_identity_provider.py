"""Whether people of an identity provider can log in, and whether a token of it would be accepted, check by check.

What the broker itself asks and verifies is asked and verified here, by the same functions. Only published documents are fetched,
of the issuer that the operator named or a configured entry names: a token leads nowhere and is sent nowhere. Findings hold no
token, secret or subject; of a token they show the names of policy's groups and clients of this deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment, IdentityProvider
from cab.domain.identifiers import is_printable
from cab.encoding import strict_json
from cab.ports import Clock, HttpAnswer, HttpClient, NotFound, Unavailable, VerificationKeys
from cab.protocol import discovery
from cab.protocol.drafts import ID_JAG_TYP
from cab.protocol.jose import jwk, jws
from cab.protocol.jose.jws import Rules, TokenRejected, UnverifiedToken, VerifiedClaims
from cab.protocol.tokens import id_jag, id_tokens
from cab.use_cases.people.login import CALLBACK_PATH, callback_path
from cab_ops.check_connection import Finding, Holds, Why, answer_or_words, compared_clock

_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 1_048_576
_SHOWN_KEYS: Final = 20


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody of this deployment whom a token may be for."""

    title: str
    rules: Rules
    check: Callable[[UnverifiedToken], None]  # what is asked of its tokens beyond the rules; raises TokenRejected


class CheckIdentityProvider:
    """`keys` is the broker's own way to the issuer's keys; `why` turns a failed connection into words."""

    def __init__(
        self, deployment: Deployment, http: HttpClient, keys: VerificationKeys, clock: Clock, *, why: Why
    ) -> None:
        self._deployment = deployment
        self._http = http
        self._keys = keys
        self._clock = clock
        self._why = why

    def redirect_uri(self, idp: IdentityProvider | None) -> str:
        return self._deployment.broker.origin + (CALLBACK_PATH if idp is None else callback_path(idp))

    # --- the live provider ---

    async def issuer(self, idp: IdentityProvider) -> list[Finding]:
        """What the provider publishes, in the order in which a login needs it. Raises nothing: what fails is a finding."""
        found = [self._https(idp)]
        answer = await self._get(discovery.url_of(idp.issuer))
        document: dict[str, Any] | None = None
        if isinstance(answer, str):
            found.append(Finding("discovery", Holds.NO, answer))
        else:
            try:
                document = discovery.read(answer.status, answer.body, issuer=idp.issuer)
                found.append(Finding("discovery", Holds.YES, "published, for exactly this issuer"))
            except discovery.NotBelieved as error:
                found.append(Finding("discovery", Holds.NO, f"HTTP {answer.status}: {error}"))
        jwks_uri = idp.jwks_uri
        if document is not None:
            allowed = discovery.origins((idp.issuer, *idp.endpoint_origins))
            names = ("authorization_endpoint", "token_endpoint", *(() if jwks_uri else ("jwks_uri",)))
            where = [_said(it, "may be asked", partial(discovery.endpoint, document, it, allowed)) for it in names]
            found += where
            if jwks_uri is None and where[-1].holds is Holds.YES:
                jwks_uri = discovery.endpoint(document, "jwks_uri", allowed)
            found += _announced(document, idp)
        found += await self._key_set(idp, jwks_uri)
        if not isinstance(answer, str):
            found.append(compared_clock(answer, self._clock))
        return found

    def _https(self, idp: IdentityProvider) -> Finding:
        if idp.issuer.startswith("https://"):
            return Finding("https", Holds.YES, "the issuer is on https")
        local = self._deployment.broker.allow_loopback_http
        says = "plain http, which allow_loopback_http lets this machine do" if local else "the issuer must be on https"
        return Finding("https", Holds.YES if local else Holds.NO, says)

    async def _key_set(self, idp: IdentityProvider, uri: str | None) -> list[Finding]:
        if uri is None:
            return [Finding("keys", Holds.NO, "there is no key set that may be asked for")]
        answer = await self._get(uri)
        if isinstance(answer, str):
            return [Finding("keys", Holds.NO, answer)]
        try:
            if answer.status != 200:
                raise jwk.InvalidKey("was not answered")
            members = jwk.members(strict_json.load_document(answer.body))
        except (jwk.InvalidKey, strict_json.InvalidJson) as error:
            return [Finding("keys", Holds.NO, f"HTTP {answer.status}: the key set {_is(error)}")]
        return [_usable(members, idp), *_unsafe(members)]

    async def _get(self, url: str) -> HttpAnswer | str:
        return await answer_or_words(self._http.get(url, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES), self._why)

    # --- a token ---

    def provider_of(self, token: str) -> IdentityProvider | None:
        """The entry that a token's own words choose, None where it has no such words."""
        try:
            issuer = _parsed(token).unverified_issuer
        except TokenRejected:
            return None
        return self._deployment.identity_provider_by_issuer.get(issuer)

    def form(self, token: str) -> list[Finding]:
        """Whether the token can be read at all, and whose it claims to be."""
        found = [_said("form", "a compact JWS", lambda: _parsed(token))]
        if found[0].holds is Holds.YES:
            found.append(self._entry(token))
        return found

    def _entry(self, token: str) -> Finding:
        idp = self.provider_of(token)
        if idp is not None:
            return Finding("entry", Holds.YES, f"{idp.issuer}, tenant {idp.tenant}")
        claimed = jws.claimed_by(token).issuer
        for issuer in self._deployment.identity_provider_by_issuer:
            if claimed is not None and claimed.rstrip("/").lower() == issuer.rstrip("/").lower():
                return Finding("entry", Holds.NO, f"the token's iss is {issuer} but for a slash or capitals")
        return Finding("entry", Holds.NO, "no entry has the token's iss: it is the issuer of none of them")

    async def token(self, token: str, idp: IdentityProvider) -> list[Finding]:
        """Each step of the verification by itself, so that the first fault hides none of the others."""
        parsed = _parsed(token)
        is_jag = str(parsed.header.get("typ", "")).lower() == ID_JAG_TYP
        clients = list(self._jag_clients(idp) if is_jag else self._login_clients(idp))
        kind = "ID-JAG" if is_jag else "ID token"
        rules = clients[0].rules if clients else id_tokens.rules(idp, idp.login.client_id)
        found = [_said("header", f"{kind}, {parsed.algorithm}", lambda: jws.check_type(parsed, rules))]
        if is_jag and not idp.id_jag:
            found.append(Finding("ID-JAG", Holds.NO, "the entry does not accept any: id_jag is not set"))
        found.append(await self._signature(parsed, rules))
        found.append(_said("issuer", "the entry's", lambda: jws.check_issuer(parsed, rules)))
        found.append(_audience(parsed, clients))
        found.append(self._times(parsed, rules))
        if not is_jag:
            found.append(_said("no logout token", "none", lambda: id_tokens.check_no_logout(parsed.claims)))
        says = f"{idp.subject_claim} is there"
        found.append(_said("subject claim", says, lambda: id_tokens.subject_of(parsed.claims, idp)))
        found.append(_groups(parsed, idp))
        now = self._clock.now()
        as_if = VerifiedClaims(parsed.claims, idp.issuer, expires_at=now, issued_at=None, checked_at=now)
        if is_jag:
            found.append(_said("other claims", "readable", lambda: id_jag.read(as_if, idp)))
        else:
            found.append(_said("auth_time", "not in the future", lambda: id_tokens.auth_time_of(as_if)))
        return found

    async def _signature(self, parsed: UnverifiedToken, rules: Rules) -> Finding:
        name = "signature"
        try:
            key = await self._keys.find(rules.issuer, parsed.kid, parsed.algorithm)
            jws.check_signature(parsed, key, rules)
        except TokenRejected as error:
            return Finding(name, Holds.NO, error.why)
        except NotFound:
            named = "kid names none" if parsed.kid is not None else "the token names none, and none or too many fit"
            return Finding(name, Holds.NO, f"no usable key of the issuer: {named}")
        except Unavailable:
            return Finding(name, Holds.UNKNOWN, "the issuer's keys cannot be fetched")
        return Finding(name, Holds.YES, "verifies with a published key")

    def _times(self, parsed: UnverifiedToken, rules: Rules) -> Finding:
        now = self._clock.now()
        try:
            expires_at = jws.check_times(parsed, rules, now)[1]
        except TokenRejected as error:
            return Finding("times", Holds.NO, error.why)
        if expires_at <= now:  # within the leeway: nothing is left that an assertion could live
            return Finding("times", Holds.NO, "expired")
        return Finding("times", Holds.YES, f"ends in {int((expires_at - now).total_seconds())} s")

    # --- whom it may be for ---

    def _login_clients(self, idp: IdentityProvider) -> Iterator[Client]:
        registered = [
            (f"front end {it.client_id}", it.idp_client_id)
            for it in self._deployment.front_ends
            if it.identity_provider == idp.issuer
        ]
        for title, client_id in [*registered, ("the pages", idp.login.client_id)]:
            yield Client(
                title,
                id_tokens.rules(idp, client_id),
                partial(_is_for, client_id),
            )

    def _jag_clients(self, idp: IdentityProvider) -> Iterator[Client]:
        rules = id_jag.rules(idp, self._deployment.broker.sts_issuer)
        for agent in self._deployment.agents:
            if agent.tenant == idp.tenant and agent.accepts_id_jag:
                yield Client(f"agent {agent.client_id}", rules, partial(_is_of, agent))


def _parsed(token: str) -> UnverifiedToken:
    return jws.parse(token, allowed_headers=jws.CERTIFICATE_HEADERS)


def _is_for(client_id: str, parsed: UnverifiedToken) -> None:
    id_tokens.check_party(parsed.claims, client_id)


def _is_of(agent: Agent, parsed: UnverifiedToken) -> None:
    if parsed.claims.get("client_id") != agent.client_id:
        raise TokenRejected("client_id is another client")


def _said(name: str, says: str, check: Callable[[], object]) -> Finding:
    """The finding of one check that raises what it has against its input, in a phrase of ours."""
    try:
        check()
    except TokenRejected as error:
        return Finding(name, Holds.NO, error.why)
    except discovery.NotBelieved as error:
        return Finding(name, Holds.NO, str(error))
    return Finding(name, Holds.YES, says)


def _announced(document: dict[str, Any], idp: IdentityProvider) -> Iterator[Finding]:
    """What the document says that it can do, against what the entry wants. A member that is not there says nothing."""
    name = "algorithms"
    listed = document.get("id_token_signing_alg_values_supported")
    if isinstance(listed, list):
        shared = [it for it in idp.algorithms if it in listed]
        says = f"both know {', '.join(shared)}" if shared else f"the issuer has none of {', '.join(idp.algorithms)}"
        yield Finding(name, Holds.YES if shared else Holds.NO, says)
    else:
        yield Finding(name, Holds.UNKNOWN, "the document does not say which the issuer signs with")
    pkce = document.get("code_challenge_methods_supported")
    if isinstance(pkce, list) and "S256" not in pkce:
        yield Finding("PKCE", Holds.UNKNOWN, "the document does not list S256")
    claims = document.get("claims_supported")
    if isinstance(claims, list):
        wanted = [idp.subject_claim, *([idp.groups_claim] if idp.groups else [])]
        if missing := [it for it in wanted if it not in claims and it.split(".")[0] not in claims]:
            yield Finding("claims", Holds.UNKNOWN, f"the document does not list {', '.join(missing)}")


def _usable(members: list[jwk.Member], idp: IdentityProvider) -> Finding:
    fitting = [it for it in members if it.key is not None and it.key.algorithm in idp.algorithms]
    left_out = [
        f"{_name(it)} ({it.why_not or 'is for an algorithm that the entry does not name'})"
        for it in members
        if it not in fitting
    ]
    says = f"usable: {', '.join(_name(it) for it in fitting[:_SHOWN_KEYS]) or 'none'}"
    if left_out:
        says += f"; left out: {', '.join(left_out[:_SHOWN_KEYS])}"
    return Finding("keys", Holds.YES if fitting else Holds.NO, says)


def _unsafe(members: list[jwk.Member]) -> Iterator[Finding]:
    """Keys that anybody can make signatures with: a reason to tell the provider, whatever other keys there are."""
    weak = [it for it in members if it.why_not == jwk.ROCA]
    says = (
        f"{', '.join(_name(it) for it in weak)}: {jwk.ROCA}" if weak else "no key is of the kind that can be factored"
    )
    yield Finding("ROCA", Holds.NO if weak else Holds.YES, says)


def _name(member: jwk.Member) -> str:
    if member.kid is None:
        return "a key without kid"
    return member.kid if is_printable(member.kid, max_length=64) else "a key with a long or unprintable kid"


def _is(error: Exception) -> str:
    return "is no strict JSON object" if isinstance(error, strict_json.InvalidJson) else str(error)


def _audience(parsed: UnverifiedToken, clients: list[Client]) -> Finding:
    """Each registered client by itself: one is enough, and each says why it is not."""
    name = "audience"
    if not clients:
        return Finding(name, Holds.NO, "no client of this deployment may have such tokens")
    accepted, refused = [], []
    for client in clients:
        try:
            jws.check_audience(parsed, client.rules)
            client.check(parsed)
            accepted.append(client.title)
        except TokenRejected as error:
            refused.append(f"{client.title} ({error.why})")
    says = f"for {', '.join(accepted) or 'nobody registered'}"
    return Finding(
        name, Holds.YES if accepted else Holds.NO, f"{says}; not for {', '.join(refused)}" if refused else says
    )


def _groups(parsed: UnverifiedToken, idp: IdentityProvider) -> Finding:
    name = "groups"
    if not idp.groups:
        return Finding(name, Holds.YES, "the entry maps none")
    groups, unknown = id_tokens.groups_of(parsed.claims, idp)
    if unknown is not None:
        return Finding(name, Holds.UNKNOWN, f"{unknown.value}: {unknown.sentence} ({idp.groups_claim})")
    return Finding(name, Holds.YES, f"mapped: {', '.join(groups) or 'none of those the token lists'}")
