"""HTTP servers of the local stack: bound to 127.0.0.1, and deaf to requests that name another host.

The services behind these servers hand out tokens and obey anyone who can reach them, so being unreachable from
other machines is not enough: a web page open in the developer's browser can point its own host name at 127.0.0.1
(DNS rebinding). Such a request still carries the page's name in `Host`, and is refused with 403.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from cab_dev.processes.ports import HOST

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

__all__ = ["HOST", "refuse_foreign_hosts", "serve"]

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


@web.middleware
async def refuse_foreign_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 403 unless the `Host` header names this machine's loopback interface."""
    if urlsplit(f"//{request.host}").hostname not in _LOOPBACK_NAMES:
        raise web.HTTPForbidden(text="This server answers loopback requests only.\n")
    return await handler(request)


async def serve(application: web.Application, port: int) -> tuple[web.AppRunner, int]:
    """Serve `application` on 127.0.0.1. Port 0 takes a free one. Returns the runner to clean up and the port.

    The port is held exclusively: two servers can never share it unnoticed.

    Raises: OSError when the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as exc:
        listener.close()
        raise OSError(f"port {port} on {HOST} is taken") from exc
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner, int(listener.getsockname()[1])
