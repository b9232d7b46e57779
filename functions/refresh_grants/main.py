"""The only reader of grants: serves, refreshes, sweeps and revokes them, private Cloud Run function.

Wiring only: the rules are in cab.use_cases.
"""

import functions_framework.aio

from cab import bootstrap, settings

refresh_grants = functions_framework.aio.http(bootstrap.refresh_grants(settings.load(settings.RefreshGrantsSettings)))
