"""Python side of the control endpoint (`control`): switch faults on, count calls, reset a project."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from gcp_emulators.faults import CallFault, PushFault, StaleFault

_TIMEOUT_S = 10.0


class ControlRefused(Exception):
    """The control endpoint answered with an error."""


class ControlClient:
    """Blocking and cheap: one loopback request per call. `address` is host:port."""

    def __init__(self, address: str) -> None:
        self._address = address

    def add_fault(self, rule: CallFault | PushFault | StaleFault) -> int:
        """Put a rule in force, after those already there. Returns its id."""
        answer = self._request("POST", "/faults", rule.model_dump_json())
        return int(answer["id"])

    def remove_fault(self, fault_id: int) -> None:
        self._request("DELETE", f"/faults/{fault_id}")

    def clear_faults(self) -> None:
        self._request("DELETE", "/faults")

    def faults(self) -> list[dict[str, Any]]:
        """Rules in force, each with `id`, `matched`, `fired` and `rule`."""
        listed: list[dict[str, Any]] = self._request("GET", "/faults")["faults"]
        return listed

    def counts(self, project: str | None = None) -> dict[str, int]:
        """Calls per `service.Method`, such as `firestore.Commit`; a method that was never called is absent."""
        counts: dict[str, int] = self._calls(project)["counts"]
        return counts

    def calls(self, project: str | None = None) -> list[dict[str, Any]]:
        """The latest calls: `service`, `method`, `project`, `resources`, `status`, `deletes`, `makes`, `came_at`, `took_s`."""
        calls: list[dict[str, Any]] = self._calls(project)["calls"]
        return calls

    def clear_calls(self, project: str | None = None) -> None:
        self._request("DELETE", "/calls" + _query(project))

    def delete_project(self, project: str) -> None:
        """Remove a project's data from every service of the process and forget its calls."""
        self._request("DELETE", f"/projects/{quote(project, safe='')}")

    def _calls(self, project: str | None) -> dict[str, Any]:
        return self._request("GET", "/calls" + _query(project))

    def _request(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise ControlRefused(f"{method} {path}: {response.status} {content.decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(content) if content else {}
        return answer


def _query(project: str | None) -> str:
    return "" if project is None else "?" + urlencode({"project": project})
