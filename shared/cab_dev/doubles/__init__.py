"""Doubles: stand-ins for foreign systems that behave like them, faults included. Local and tests only."""
