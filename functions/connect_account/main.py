"""The pages people see: connect, approve, my account, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import bootstrap, settings

connect_account = functions_framework.aio.http(
    bootstrap.connect_account(settings.load(settings.ConnectAccountSettings))
)
