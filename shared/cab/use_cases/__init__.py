"""What the broker does, in rooms by journey.

Journeys, which do not know each other: `edge` (mint), `exchange` (intent in, token out), `calls` (what
call_tool does), `grants`
(what refresh_grants does), `people` (the pages). What they share: `identity` (who is calling, on whose behalf),
`upstream` (the broker as a client of providers), `audit`.
"""
