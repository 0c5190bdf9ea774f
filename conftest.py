"""Makes `pytest --target=NAME` work from this directory."""

pytest_plugins = ("harness.plugin",)
