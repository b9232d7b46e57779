"""Edge assertion minting (RFC 8693 in, assertion out), Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import settings
from cab.bootstrap import mint_assertion as build

mint_assertion = functions_framework.aio.http(build.mint_assertion(settings.load(settings.MintAssertionSettings)))
