"""Tools that the broker calls itself, by HTTP and by MCP, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import settings
from cab.bootstrap import call_tool as build

call_tool = functions_framework.aio.http(build.call_tool(settings.load(settings.CallToolSettings)))
