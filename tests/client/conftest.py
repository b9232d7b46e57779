"""The client's own fixtures, as its users get them from the plugin."""

from cab_client import pytest_plugin

collect_ignore = ["frameworks"]  # test_frameworks.py runs them, in an environment that has them

cab_fake = pytest_plugin.cab_fake
