"""A container is well when its service answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutlayer.services import certs, probe
from cutlayer.services.settings import ServerSettings

from .web.apps import application, served


def test_the_probe_knows_a_service_that_is_well(tmp_path: Path) -> None:
    announce = tmp_path / "service.json"
    environ = {"CUTLAYER_ANNOUNCE": str(announce)}
    assert "not announced" in str(probe.answers(environ))
    with served(application(), ServerSettings(announce=announce)):
        assert probe.answers(environ) is None
    assert "does not answer" in str(probe.answers(environ))
    announce.write_text("nonsense")
    assert "not announced" in str(probe.answers(environ))


@pytest.mark.parametrize("mutual", [False, True])
def test_the_probe_speaks_tls(tmp_path: Path, mutual: bool) -> None:
    ca = certs.make_ca(tmp_path)
    own = certs.issue_server(tmp_path, ["split"])
    announce = tmp_path / "service.json"
    settings = ServerSettings(
        announce=announce, tls_cert=own.cert, tls_key=own.key, tls_client_ca=ca.cert if mutual else None
    )
    environ = {
        "CUTLAYER_ANNOUNCE": str(announce),
        "CUTLAYER_TLS_CERT": str(own.cert),
        "CUTLAYER_TLS_KEY": str(own.key),
        "CUTLAYER_TLS_CLIENT_CA": str(ca.cert) if mutual else "",
    }
    with served(application(), settings):
        assert probe.answers(environ) is None
