"""The control endpoint of the embedded emulators, JSON over HTTP on loopback.

| request | does |
|---|---|
| `GET /health` | 200 with the addresses once every service of the process answers |
| `GET /faults` | rules in force, with how often each matched and fired |
| `POST /faults` | adds one rule (see `faults`), answers `{"id": n}`; 400 with the mistakes otherwise |
| `DELETE /faults`, `DELETE /faults/{id}` | lifts all rules, or one |
| `GET /calls?project=P` | `counts` per `service.Method`, exact, and the latest `calls` |
| `DELETE /calls?project=P` | forgets the calls of one project, or of all |
| `DELETE /projects/{project}` | removes the project's data in every service and forgets its calls |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from cab_dev.loopback import refuse_foreign_hosts
from gcp_emulators.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcp_emulators.call_log import CallLog
    from gcp_emulators.embedded import EmulatedService
    from gcp_emulators.faults import FaultBook, Service

_fault: TypeAdapter[Fault] = TypeAdapter(Fault)


@dataclass(frozen=True)
class _ControlApi:
    services: Mapping[Service, EmulatedService]
    addresses: Mapping[Service, str]
    faults: FaultBook
    call_log: CallLog

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ready", "services": dict(self.addresses)})

    async def list_faults(self, _: web.Request) -> web.Response:
        listed = [
            {"id": a.id, "matched": a.matched, "fired": a.fired, "rule": a.rule.model_dump(mode="json")}
            for a in self.faults.active()
        ]
        return web.json_response({"faults": listed})

    async def add_fault(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":  # a browser cannot send it across origins unasked
            raise web.HTTPUnsupportedMediaType
        try:
            rule = _fault.validate_json(await request.read())
        except ValidationError as exc:
            mistakes = exc.errors(include_input=False, include_url=False, include_context=False)
            return web.json_response({"mistakes": mistakes}, status=400)
        return web.json_response({"id": self.faults.add(rule)})

    async def clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.Response(status=204)

    async def remove_fault(self, request: web.Request) -> web.Response:
        if not self.faults.remove(int(request.match_info["id"])):
            raise web.HTTPNotFound
        return web.Response(status=204)

    async def list_calls(self, request: web.Request) -> web.Response:
        project = request.query.get("project")
        listed = [call.as_json() for call in self.call_log.calls(project)]
        return web.json_response({"counts": self.call_log.counts(project), "calls": listed})

    async def clear_calls(self, request: web.Request) -> web.Response:
        self.call_log.clear(request.query.get("project"))
        return web.Response(status=204)

    async def delete_project(self, request: web.Request) -> web.Response:
        project = request.match_info["project"]
        for service in self.services.values():
            service.delete_project(project)
        self.call_log.clear(project)
        return web.Response(status=204)


def control_application(
    services: Mapping[Service, EmulatedService],
    addresses: Mapping[Service, str],
    faults: FaultBook,
    call_log: CallLog,
) -> web.Application:
    """The HTTP application described at the top of this file."""
    api = _ControlApi(services, addresses, faults, call_log)
    application = web.Application(middlewares=[refuse_foreign_hosts])
    application.add_routes(
        [
            web.get("/health", api.health),
            web.get("/faults", api.list_faults),
            web.post("/faults", api.add_fault),
            web.delete("/faults", api.clear_faults),
            web.delete(r"/faults/{id:\d+}", api.remove_fault),
            web.get("/calls", api.list_calls),
            web.delete("/calls", api.clear_calls),
            web.delete("/projects/{project}", api.delete_project),
        ]
    )
    return application
