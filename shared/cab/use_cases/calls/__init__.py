"""A call that the broker makes itself, in running order: `identify` who calls, `listing` what they may see, `call` (asks
exchange_token, sends, records), `running` (how many at once, and what happens to them when the process ends), `execute` (the
rule of repetition), `answers` (what of the platform's answer goes on).
"""
