"""Mistakes that a type checker must find; each line says which."""

from cab_client import Agent, ClientSecret, FrontEnd, Intent, Task

front_end = FrontEnd("https://cab.acme.example", "secret")  # expect: arg-type
agent = Agent("https://cab.acme.example", ClientSecret("a", "s"), mode="blind")  # expect: arg-type
intent = Intent("crm.note.create", identifier="opportunity/1")  # expect: call-arg
agent.permit("crm.note.create")  # expect: arg-type
task = Task.for_turn("x", actions=["crm.*"])  # expect: call-arg
front_end.mint("id").as_headers()  # expect: attr-defined
