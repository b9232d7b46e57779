"""Who is logged in at the demo identity provider, in which browser, since when and how strongly."""

import secrets
from dataclasses import dataclass

from cab_dev.doubles.clock import Clock
from examples.acme.people import PEOPLE, AcmePerson

SESSION_LIFE_S = 8 * 3600
ACR_PASSWORD = "urn:acme:acr:password"
ACR_MFA = "urn:acme:acr:mfa"
AMR = {ACR_PASSWORD: ["pwd"], ACR_MFA: ["pwd", "otp", "mfa"]}
_STRENGTH = {ACR_PASSWORD: 1, ACR_MFA: 2}


@dataclass(frozen=True, kw_only=True)
class LoginSession:
    """One login. `sid` is the session's public name in ID tokens; the browser's cookie value is never shown."""

    login: str
    sid: str
    auth_time: float
    acr: str

    @property
    def person(self) -> AcmePerson:
        return PEOPLE[self.login]


@dataclass(frozen=True, kw_only=True)
class LoginDemand:
    """What a client asks of the login: OIDC Core section 3.1.2.1, RFC 9470."""

    prompt: str
    max_age: int | None
    acr_values: tuple[str, ...]
    login_hint: str | None

    @property
    def acr(self) -> str:
        """The first known value asked for. Unknown ones are voluntary and ignored."""
        return next((acr for acr in self.acr_values if acr in AMR), ACR_PASSWORD)

    def is_met_by(self, session: LoginSession, now: float) -> bool:
        """True when no new login is needed."""
        if self.prompt in ("login", "select_account"):
            return False
        if self.max_age is not None and now - session.auth_time > self.max_age:
            return False
        if self.login_hint not in (None, session.login, session.person.email):
            return False
        return not any(acr in AMR for acr in self.acr_values) or _STRENGTH[session.acr] >= _STRENGTH[self.acr]


class LoginSessions:
    """Sessions by browser id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, LoginSession] = {}

    def start(self, browser: str, login: str, acr: str) -> LoginSession:
        session = LoginSession(login=login, sid=secrets.token_urlsafe(12), auth_time=self._clock(), acr=acr)
        self._sessions[browser] = session
        return session

    def of(self, browser: str | None) -> LoginSession | None:
        """The live session of that browser."""
        session = self._sessions.get(browser or "")
        return session if session and self._clock() < session.auth_time + SESSION_LIFE_S else None

    def end(self, browser: str | None) -> None:
        self._sessions.pop(browser or "", None)

    def clear(self) -> None:
        self._sessions.clear()
