"""HTML pages for people: decent on a phone, one style sheet allowed by its hash, no scripts."""

import base64
import hashlib
import html

from starlette.responses import HTMLResponse

_CSS = """
:root{color-scheme:light dark;--accent:%(accent)s;--ink:#1c2330;--soft:#5b6577;--line:#d9dee7;--card:#fff;--ground:#f2f4f8}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf1;--soft:#a3adbd;--line:#333c4b;--card:#1b212b;--ground:#11151c}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;align-items:center;justify-content:center;padding:1rem;
background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%%;max-width:26rem;background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:1.75rem;border-top:5px solid var(--accent);overflow-wrap:anywhere}
.brand{margin:0 0 1rem;font-weight:600;color:var(--accent)}
@media (prefers-color-scheme:dark){.brand{color:var(--soft)}}
h1{font-size:1.35rem;line-height:1.25;margin:0 0 .6rem}
p{margin:.4rem 0}
.soft{color:var(--soft);font-size:.9rem}
ul{margin:.8rem 0;padding:0;list-style:none;border-top:1px solid var(--line)}
li{padding:.55rem 0;border-bottom:1px solid var(--line)}
code{font-size:.85em;color:var(--soft)}
form{margin-top:1.1rem;display:grid;gap:.6rem}
button{font:inherit;font-weight:600;min-height:48px;padding:.6rem 1rem;border-radius:10px;cursor:pointer;
border:1px solid var(--accent);background:var(--accent);color:#fff}
button.quiet{background:transparent;color:var(--ink);border-color:var(--line)}
button:focus-visible{outline:3px solid var(--ink);outline-offset:2px}
"""

# Chromium applies form-action to every redirect that follows a form submission, and a login ends in another origin's
# callback, which may redirect once more. So loopback and https targets are allowed; script URLs and the rest are not.
_FORM_ACTION = "form-action 'self' http://127.0.0.1:* http://localhost:* https:"


class Pages:
    """HTML pages of one brand: one style sheet, allowed by its hash, no scripts, no frames, no outside content."""

    def __init__(self, brand: str, accent: str) -> None:
        self.brand = brand
        self._css = _CSS % {"accent": accent}
        digest = base64.b64encode(hashlib.sha256(self._css.encode()).digest()).decode("ascii")
        self._policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'; {_FORM_ACTION}"
        )

    def render(self, title: str, body: str, *, status: int = 200) -> HTMLResponse:
        """A page. `title` is escaped here; `body` is HTML whose parts the caller has escaped."""
        document = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(title)} · {html.escape(self.brand)}</title><style>{self._css}</style></head>"
            f'<body><main><p class="brand">{html.escape(self.brand)}</p>'
            f"<h1>{html.escape(title)}</h1>{body}</main></body></html>"
        )
        headers = {
            "Content-Security-Policy": self._policy,
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
        }
        return HTMLResponse(document, status_code=status, headers=headers)

    def problem(self, description: str, *, status: int = 400) -> HTMLResponse:
        """An error page for a person; nothing of the request is repeated on it."""
        return self.render("This request cannot be completed", f"<p>{html.escape(description)}</p>", status=status)
