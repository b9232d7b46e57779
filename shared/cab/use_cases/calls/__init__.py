"""A call that the broker executes itself, in running order: `identify` who calls, `listing` what they may see, `call` (asks
exchange_token, executes, records), `execute` (the rule of repetition), `answers` (what of the platform's answer goes on).
"""
