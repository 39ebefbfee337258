"""Every kind of store, S3 by moto's server, for tests of what all stores have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cutlayer.store import MemoryStore, ObjectStore, TensorStore

KEYS = {"access_key_id": "testing", "secret_access_key": "testing", "region": "us-east-1"}


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[], ObjectStore]]:
    """Makes stores in one bucket of a moto server, each with a prefix of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="tensors")
    client.close()

    def make(prefix: str | None = None) -> ObjectStore:
        url = f"s3://tensors/{prefix or uuid4().hex}"
        return ObjectStore(url, endpoint=endpoint, client_options={"allow_http": True}, **KEYS)

    yield make
    server.stop()


@pytest.fixture(params=["references", "memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TensorStore:
    """An empty store of every kind."""
    match request.param:
        case "references":
            return MemoryStore()
        case "memory":
            return ObjectStore("memory://")
        case "s3":
            made: ObjectStore = request.getfixturevalue("s3")()
            return made
        case _:
            return ObjectStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStore:
    """An empty store in a local folder."""
    return ObjectStore(tmp_path / "store")


@pytest.fixture
def locked(folder: ObjectStore) -> Iterator[ObjectStore]:
    """A store in a folder in which this process may not write."""
    assert folder.folder is not None
    folder.folder.chmod(0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.folder.chmod(0o700)
