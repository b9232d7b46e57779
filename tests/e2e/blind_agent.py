"""An agent as a process of its own: it calls tools in call mode over HTTP and over MCP, one step for each line that it reads.

First line: {"origin": ..., "call_token": ...}. It says what each step got, and lives on until its input ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import requests
from examples.acme.agent.blind_assistant import BlindAssistant


def main() -> None:
    given = json.loads(sys.stdin.readline())
    origin, token = given["origin"], given["call_token"]
    authorization = {"Authorization": f"Bearer {token}"}
    mcp = BlindAssistant(endpoint=f"{origin}/mcp", call_token=token, ask_user=lambda *_: None)

    def by_http(tool: str, **arguments: Any) -> Any:
        asked = {"tool": tool, "arguments": arguments}
        return requests.post(f"{origin}/tools/call", json=asked, headers=authorization, timeout=30).json()["result"]

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        how, tool, arguments = json.loads(line)
        got = by_http(tool, **arguments) if how == "http" else mcp.call(tool, **arguments).content
        sys.stdout.write(json.dumps(got) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
