"""RFC 8693 token exchange, introspection and revocation, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import bootstrap, settings

exchange_token = functions_framework.aio.http(bootstrap.exchange_token(settings.load(settings.ExchangeTokenSettings)))
