"""The only reader of grants: serves, refreshes, sweeps and revokes them, private Cloud Run function.

Wiring only: the rules are in cab.use_cases.
"""

import functions_framework.aio

from cab import settings
from cab.bootstrap import refresh_grants as build

refresh_grants = functions_framework.aio.http(build.refresh_grants(settings.load(settings.RefreshGrantsSettings)))
