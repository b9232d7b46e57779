"""Tokens on the organisation's trust, without a consent screen: `tokens` decides and keeps, `requests` asks the
provider.
"""
