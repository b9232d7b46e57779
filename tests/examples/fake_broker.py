"""A broker of three pages, for proving that a played person finds the way: it logs in, connects and asks.

Only what a browser sees of one; it checks nothing, and no real broker may look like it.
"""

import secrets
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from tests.examples.acme_in_process import BROKER, CRM, IDP

from cab_dev.doubles.oauth_provider import s256

_CONSENT = (
    '<title>x</title><form method="post" action="/connect/start"><input type="hidden" name="csrf" value="c">'
    '<button name="decision" value="connect">Connect CRM</button><button name="decision" value="cancel">Cancel</button>'
    "</form>"
)
_END = (
    "<p>CRM is connected.</p><form method=post action=/disconnect><button>Disconnect</button></form>"
    "<form method=get action=/connect><button>Connect tracker</button></form>"
)
_APPROVAL = (
    '<p>Delete opportunity/0061</p><form method="post"><input type="hidden" name="csrf_token" value="t">'
    '<button name="decision" value="approve">Approve</button><button name="decision" value="refuse">Refuse</button></form>'
)


class FakeBroker:
    """Remembers what came back to it and what was decided."""

    def __init__(self) -> None:
        self.callbacks: list[dict[str, str]] = []
        self.decisions: list[dict[str, str]] = []
        self._wanted: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/connect", self._connect),
                Route("/connect/start", self._start, methods=["POST"]),
                Route("/connect/callback/crm", self._callback),
                Route("/login/callback", self._logged_in),
                Route("/approvals/a1", self._approval, methods=["GET", "POST"]),
                Route("/me", self._me),
            ]
        )

    def _login_first(self, request: Request) -> Response | None:
        if "fake_session" in request.cookies:
            return None
        state = secrets.token_urlsafe(8)
        self._wanted[state] = str(request.url)
        return self._go(
            f"{IDP}/authorize", client_id="cab", redirect_uri=f"{BROKER}/login/callback", scope="openid", state=state
        )

    @staticmethod
    def _go(endpoint: str, **query: str) -> Response:
        common = {"response_type": "code", "code_challenge": s256("v" * 43), "code_challenge_method": "S256"}
        return RedirectResponse(f"{endpoint}?{urlencode({**query, **common})}", status_code=302)

    async def _logged_in(self, request: Request) -> Response:
        answer = RedirectResponse(self._wanted.pop(request.query_params["state"]), status_code=303)
        answer.set_cookie("fake_session", "1", httponly=True)
        return answer

    async def _connect(self, request: Request) -> Response:
        return self._login_first(request) or HTMLResponse(_CONSENT)

    async def _start(self, request: Request) -> Response:
        form = dict(await self._form(request))
        assert form == {"csrf": "c", "decision": "connect"}
        redirect_uri = f"{BROKER}/connect/callback/crm"
        return self._go(
            f"{CRM}/oauth/authorize", client_id="cab", redirect_uri=redirect_uri, scope="opportunity.read", state="s"
        )

    async def _callback(self, request: Request) -> Response:
        self.callbacks.append(dict(request.query_params))
        return RedirectResponse("/me", status_code=303)

    async def _me(self, _: Request) -> Response:
        return HTMLResponse(_END)

    async def _approval(self, request: Request) -> Response:
        if request.method == "GET":
            return self._login_first(request) or HTMLResponse(_APPROVAL)
        assert request.headers["origin"] == BROKER
        self.decisions.append(await self._form(request))
        return HTMLResponse("<p>Thank you.</p>")

    @staticmethod
    async def _form(request: Request) -> dict[str, Any]:
        async with request.form() as form:
            return dict(form)
