"""What an exchange has for agents that hold no tokens of platforms. In running order:

`token` gives an agent its call token; `internal` decides on one call for the function that makes it, and `told`
hears from it what came of that; `outcomes` takes what
agents with tokens, and resources that were sent them, say came of them.
"""
