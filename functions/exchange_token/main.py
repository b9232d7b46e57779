"""RFC 8693 token exchange, introspection and revocation, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import settings
from cab.bootstrap import exchange_token as build

exchange_token = functions_framework.aio.http(build.exchange_token(settings.load(settings.ExchangeTokenSettings)))
