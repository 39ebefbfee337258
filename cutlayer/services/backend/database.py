"""The database: SQLite in a file or PostgreSQL, one transaction at a time, and a word to whoever waits after each.

The two differ in four things, all of them here: how a writing transaction begins (SQLite: BEGIN IMMEDIATE, one writer;
PostgreSQL: row locks), how other processes hear of it (NOTIFY; a SQLite file belongs to one backend), how events get
their order, and how the schema is brought up to date by one process only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from cutlayer.errors import ConfigError
from cutlayer.faults import point
from cutlayer.services.backend import bell as topics
from cutlayer.services.backend.bell import Bell, heard
from cutlayer.services.backend.tables import EventRow
from cutlayer.services.errors import Unavailable

log = logging.getLogger(__name__)

Clock = Callable[[], float]

CHANNEL = "cutlayer"
MIGRATION_LOCK = 0x6375746C
EVENT_LOCK = 0x6375746D
"""Advisory locks of PostgreSQL: any two numbers that nobody else in the database uses."""
BUSY_SECONDS = 30
_SQLSTATES = {"08", "25", "40", "53", "55", "57", "58"}
"""Classes of PostgreSQL's errors: connection, read-only, rolled back, resources, locks, operator, system."""
LISTENER_CHECK = 30.0
"""Seconds after which a silent line to PostgreSQL is tried."""


class Unit:
    """One writing transaction: its session, its time, the events and calls that go out when it is committed."""

    def __init__(self, session: AsyncSession, now: float, lost_after: float) -> None:
        self.session, self.now = session, now
        self.seen_since = now - lost_after
        """Clients that were last seen before are not connected."""
        self.events: list[EventRow] = []
        self.topics: set[str] = set()

    def tell(
        self, kind: str, data: dict[str, Any], *, run: str | None = None, round: int | None = None,
        client: str | None = None,
    ) -> None:  # fmt: skip
        """Record an event."""
        self.events.append(EventRow(run=run, round=round, client=client, kind=kind, data=data, time=self.now))
        self.topics.add(topics.EVENTS)
        if run is not None:
            self.topics.add(topics.events_of(run))

    def ring(self, *names: str) -> None:
        """Wake those who listen to these topics, once the transaction is committed."""
        self.topics.update(names)


class Database:
    """Transactions, and the bell that rings after them.

    Raises Unavailable from `read` and `write` when the database does not answer: the request may come again.
    """

    def __init__(self, url: str, bell: Bell, clock: Clock = time.time, lost_after: float = 90.0) -> None:
        self.bell, self.clock, self.lost_after = bell, clock, lost_after
        self.watch: Callable[[EventRow], None] | None = None
        """Is shown every event that this process has committed."""
        try:
            self.url = make_url(url)
            self.sqlite = self.url.get_backend_name() == "sqlite"
            self.engine = self._engine()
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigError(
                "the database must be like sqlite+aiosqlite:///file or postgresql+asyncpg://user@host/name, and "
                f"{_hidden(url)!r} came"
            ) from error
        self._reading = self.engine.execution_options(cutlayer_reads=True)
        self._one_writer: Any = asyncio.Lock() if self.sqlite else nullcontext()
        self._listener: asyncio.Task[None] | None = None

    def _engine(self) -> AsyncEngine:
        backend, driver = self.url.get_backend_name(), self.url.get_driver_name()
        if (backend, driver) not in (("sqlite", "aiosqlite"), ("postgresql", "asyncpg")):
            raise ArgumentError("another driver")
        if not self.sqlite:
            return create_async_engine(
                self.url, pool_pre_ping=True, pool_size=10, max_overflow=20, pool_timeout=10, hide_parameters=True
            )
        if not self.url.database or self.url.database == ":memory:":
            raise ArgumentError("a file is needed")
        Path(self.url.database).absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_async_engine(
            self.url, connect_args={"timeout": BUSY_SECONDS}, pool_reset_on_return=None, hide_parameters=True
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    async def open(self) -> None:
        """Bring the schema up to date (one process does, the others wait), and listen to other backends.

        Raises ConfigError when the database was written by a newer version, and Unavailable when it does not answer.
        """
        with _translated():
            async with self.engine.begin() as connection:
                if not self.sqlite:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                await connection.run_sync(migrate)
        if not self.sqlite:
            self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Let go of all connections."""
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
        await self.engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A transaction that sees one state of the database and changes nothing."""
        with _translated():
            async with AsyncSession(self._reading, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Unit]:
        """A transaction that is committed at the end of the block, or leaves nothing behind."""
        with _translated():
            async with self._one_writer, AsyncSession(self.engine, expire_on_commit=False) as session:
                unit = Unit(session, self.clock(), self.lost_after)
                async with session.begin():
                    yield unit
                    await self._seal(unit)
                    point("backend.request.before_commit")
        point("backend.request.after_commit")
        if self.watch is not None:
            for row in unit.events:
                self.watch(row)
        self.bell.ring(unit.topics)

    async def _seal(self, unit: Unit) -> None:
        """Write the events (in the order of commits, for whoever reads on from an id) and notify other backends."""
        session = unit.session
        await session.flush()
        if unit.events:
            if not self.sqlite:
                await session.execute(text(f"SELECT pg_advisory_xact_lock({EVENT_LOCK})"))
            session.add_all(unit.events)
            await session.flush()
        if unit.topics and not self.sqlite:
            for part in _parcels(unit.topics):
                await session.execute(text("SELECT pg_notify(:channel, :topics)"), {"channel": CHANNEL, "topics": part})

    async def lock(self, unit: Unit, statement: Any) -> Any:
        """Return the row that ``statement`` selects, locked until the end of the transaction, or None.

        References to the row stay possible meanwhile: whoever writes another table that names it need not wait.
        """
        if not self.sqlite:
            statement = statement.with_for_update(key_share=True)
        return (await unit.session.execute(statement.execution_options(populate_existing=True))).scalar_one_or_none()

    async def answers(self) -> None:
        """Return if the database answers.  Raises Unavailable."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def _listen(self) -> None:
        """Ring when another backend has changed something, for ever; a broken line is made anew."""
        wait = 0.1
        while True:
            engine = create_async_engine(self.url, poolclass=NullPool)
            try:
                async with engine.connect() as connection:
                    await self._follow(connection)
                wait = 0.1
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("the line to the database is broken, trying again in %.1f s: %s", wait, error)
            finally:
                await engine.dispose()
            await asyncio.sleep(wait)
            wait = min(2 * wait, 5.0)

    async def _follow(self, connection: AsyncConnection) -> None:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        broken = asyncio.Event()
        raw.add_termination_listener(lambda _: broken.set())
        await raw.add_listener(CHANNEL, lambda _c, _pid, _channel, payload: self.bell.ring(payload.split("\n")))
        self.bell.ring([topics.ALL])
        while not await heard(broken, LISTENER_CHECK):
            await raw.execute("SELECT 1", timeout=LISTENER_CHECK)


def migrate(connection: Connection) -> None:
    """Bring the schema that ``connection`` sees to the newest version, inside its transaction.

    Raises ConfigError when it is of a version that is not known here.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigError(
            f"the database was written by another version of cutlayer ({error}): start that version, or give a new "
            "database"
        ) from error


class _translated:  # noqa: N801 - used like a function
    """Turns what a database raises when it is away, full or locked into Unavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and _away(error):
            log.warning("the database does not answer: %s", _first_line(error))
            raise Unavailable("the database does not answer; come back in a moment", code="database") from error


def _away(error: BaseException) -> bool:
    """Whether the database cannot be reached, or cannot work now; anything else is a mistake of ours."""
    if isinstance(error, DBAPIError):
        state = str(getattr(error.orig, "sqlstate", None) or "")
        gone = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return gone or state[:2] in _SQLSTATES
    return isinstance(error, PoolTimeout | OSError | TimeoutError)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # BEGIN is ours
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("cutlayer_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _parcels(names: set[str], limit: int = 7000) -> list[str]:
    """Return ``names``, one per line, in as few payloads as PostgreSQL takes (8,000 bytes each)."""
    parcels = [""]
    for name in sorted(names):
        if len(parcels[-1]) + len(name) + 1 > limit:
            parcels.append("")
        parcels[-1] += f"\n{name}" if parcels[-1] else name
    return parcels


def _hidden(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}…@{rest.rpartition('@')[2]}" if "@" in rest else url


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
