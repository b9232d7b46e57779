"""docs/client-typescript.md runs as it stands in Node, against a broker in this process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from tests.running_stack import ROOT

from cab_client.testing import FakeBroker, new_key

TEXT = (ROOT / "docs" / "client-typescript.md").read_text("utf-8")
MODULE = "\n".join(re.findall(r"^```js\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
STORY = """
const { origin, idToken, key, resource } = JSON.parse(process.argv[2]);
const frontEnd = { clientId: "acme-web", key }, agent = { clientId: "sales-assistant", key };
const task = { task_id: "t-1", actions: ["crm.*"], identifiers: ["opportunity/*"] };
const { access_token: assertion } = await mint(frontEnd, origin, idToken, "sales-assistant", task);
const note = { action: "crm.note.create", identifier: "opportunity/0061", parameters: { text: "hi", n: 1 } };
const { access_token: token } = await exchange(agent, origin, assertion, resource, note);
const claims = await verify(token, `${origin}/oauth2`, resource);
const held = (changes) => covers(claims, resource, { ...note, carried: note.parameters, ...changes });
const [head, body, signature] = token.split(".");
const verdict = async (text, where) => verify(text, `${origin}/oauth2`, where).then(() => true, () => false);
let asked, refused;
try {
  await exchange(agent, origin, assertion, resource, { action: "crm.opportunity.delete", identifier: "opportunity/0061" },
    { completion_mode: "deferred" });
} catch (error) { asked = error.answer; }
try {
  await exchange(agent, origin, assertion, resource, { action: "crm.other", identifier: "opportunity/0061" });
} catch (error) { refused = error.message; }
await fetch(`${origin}/approve`, { method: "POST", body: asked.interaction_uri });
const redeemed = await redeem(agent, origin, asked);
console.log(JSON.stringify({
  covered: held({}), refused, redeemed: typeof redeemed.access_token,
  wrong: [held({ carried: { text: "hi" } }), held({ carried: { text: "hi", n: 1, more: 2 } }), held({ carried: { text: "hi", n: "1" } }),
    held({ carried: { text: "ho", n: 1 } }), held({ action: "crm.note.delete" }), held({ identifier: "opportunity/0062" }),
    covers(claims, "https://elsewhere.example", { ...note, carried: note.parameters }),
    await verdict(token, "https://elsewhere.example"), await verdict(`${head}.${body}.${signature.slice(0, -8)}AAAAAAAA`, resource),
    await verdict(assertion, resource)],
}));
"""


@pytest.fixture
def served() -> Iterator[tuple[str, FakeBroker]]:
    """The fake broker on a socket; `POST /approve` is alice's yes."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/approve":
                fake.approve(content.decode(), user="alice")
                answer = httpx2.Response(200, json={})
            else:
                request = httpx2.Request(
                    self.command, f"{origin}{self.path}", headers=dict(self.headers), content=content
                )
                answer = fake.handle_request(request)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        origin = f"http://127.0.0.1:{server.server_port}"
        fake = FakeBroker(origin, connections={"crm": "https://crm.fake"})
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield origin, fake
        server.shutdown()
        serving.join()


def test_the_page_mints_exchanges_waits_verifies_and_covers(served: tuple[str, FakeBroker], tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("the TypeScript page needs Node, which is not here")
    origin, fake = served
    fake.permit("crm.note.create")
    fake.ask("crm.opportunity.delete")
    (tmp_path / "page.mjs").write_text(MODULE + STORY, "utf-8")
    given = {"origin": origin, "idToken": fake.id_token("alice"), "key": new_key(), "resource": "https://crm.fake"}
    done = subprocess.run(
        [node, str(tmp_path / "page.mjs"), json.dumps(given)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("wrong") == [False] * 10
    assert told == {"covered": True, "refused": "action_not_allowed_for_agent", "redeemed": "string"}
