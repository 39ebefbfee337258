"""What environment variables a role reads, and what commands there are."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from cutlayer import cli
from cutlayer.services.secrets import STORE_CREDENTIALS
from cutlayer.services.settings import (
    PREFIX,
    BackendSettings,
    DashboardSettings,
    FedSettings,
    ServerSettings,
    SplitSettings,
)

ROLES: dict[str, type[ServerSettings]] = {
    "backend": BackendSettings,
    "split": SplitSettings,
    "fed": FedSettings,
    "dashboard": DashboardSettings,
}
STORE = {
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
    *STORE_CREDENTIALS,
    *(f"{n}_FILE" for n in STORE_CREDENTIALS),
}
"""What the object store's client reads."""


def variables(role: str) -> set[str]:
    own = {PREFIX + name.upper() for name in ROLES[role].model_fields}
    return own | STORE if role in ("split", "fed") else own


def settings(role: str, environ: dict[str, str]) -> ServerSettings:
    """Return the settings as the role would read them, checked as it would check them."""
    found = ROLES[role].read(environ)
    found.check()
    return found


def is_command(words: list[str]) -> bool:
    """Return whether ``cutlayer`` followed by these words is a command."""
    command: Any = get_command(cli.app)
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command is not None
