"""``cutlayer certs`` and ``cutlayer token``: who is who."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cutlayer.commands import options

DAY = 86_400.0
ROLES = ("operator", "viewer", "service", "enrol")


def certs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[HOST ...]", help="Names and addresses by which the services are reached."),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also one for this client (mutual TLS).")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the CA and the certificates are.")] = Path(".cutlayer/certs"),
    file: Annotated[str, typer.Option(help="What the services' certificate is called.")] = "services",
    as_json: options.Json = False,
) -> None:
    """Make certificates: a CA of your own where there is none, one for the services, one for each client.

    Again with the same names renews them.  ca.pem goes to everyone who connects, ca.key to nobody.
    """
    from cutlayer.services import certs as authority

    made = [] if (folder / "ca.pem").exists() else [authority.make_ca(folder)]
    if names or not client:
        made.append(authority.issue_server(folder, names or _own_names(), file=file))
    made += [authority.issue_client(folder, each) for each in client or []]
    if as_json:
        options.show_json(
            [{"cert": str(m.cert), "key": str(m.key), "names": m.names, "until": m.until.isoformat()} for m in made]
        )
        return
    for m in made:
        typer.echo(f"{m.cert} and {m.key.name}  for {', '.join(m.names)}  until {m.until:%Y-%m-%d}")


@options.taking(place=options.PLACE)
def token(
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="operator, viewer, service or enrol.")] = None,
    name: Annotated[str | None, typer.Option(help="What it is for, or whom; stands in the audit.")] = None,
    days: Annotated[float | None, typer.Option(help="How long it holds (default: for ever).", min=0.0)] = None,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="Make a token worthless instead.")] = None,
    *,
    place: options.Given,
    as_json: options.Json = False,
) -> None:
    """Make a token for a role, shown once; without a role, list those there are; or revoke one."""
    from cutlayer.commands.connecting import connect
    from cutlayer.errors import ConfigError

    if role is not None and (role not in ROLES or revoke is not None):
        raise ConfigError(f"expected one of the roles {', '.join(ROLES)}, or --revoke ID, got {role!r}")
    backend = connect(**place).backend()
    if role is None and revoke is None:
        there = backend.tokens()
        if as_json:
            options.show_json([each.model_dump(mode="json") for each in there])
        else:
            options.show_table(("id", "role", "name"), [(each.id, each.role, each.name) for each in there])
        return
    if revoke is not None:
        backend.delete_token(revoke)
        options.show_json({"revoked": revoke}) if as_json else typer.echo(f"{revoke} is revoked")
        return
    made = backend.make_token(role, name or str(role), None if days is None else days * DAY)  # type: ignore[arg-type]
    options.show_json(made.model_dump(mode="json")) if as_json else typer.echo(made.token)


def _own_names() -> list[str]:
    import socket

    return list(dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname()]))
