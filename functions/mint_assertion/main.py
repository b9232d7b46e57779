"""Edge assertion minting (RFC 8693 in, assertion out), Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import bootstrap, settings

mint_assertion = functions_framework.aio.http(bootstrap.mint_assertion(settings.load(settings.MintAssertionSettings)))
