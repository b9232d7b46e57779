"""The pages people see: connect, approve, my account, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import settings
from cab.bootstrap import connect_account as build

connect_account = functions_framework.aio.http(build.connect_account(settings.load(settings.ConnectAccountSettings)))
