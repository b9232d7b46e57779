"""The client's own fixtures, as its users get them from the plugin."""

from cab_client import pytest_plugin

cab_fake = pytest_plugin.cab_fake
