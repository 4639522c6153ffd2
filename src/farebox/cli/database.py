"""The database of one command: found, brought up to date, and let go of at the end.

Without ``DATABASE_URL`` it is the bundled PostgreSQL of FAREBOX_HOME, which this command attaches
to or starts, and stops again if nobody else uses it.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from farebox.kit.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError
from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.ledger.commands import Refused, SetLimit
from farebox.operations.administration import Administration
from farebox.operations.audited_money import audited, limit_before
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.people import People
from farebox.operations.price_plans import PlanDesk
from farebox.operations.tiers import TierDesk
from farebox.settings import DATABASE_VARIABLE, Settings, read_settings
from farebox.storage.audit_log_store import PostgresAuditLog, append_event
from farebox.storage.balance_store import list_limits
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.migrate import migrate
from farebox.storage.people_store import PostgresPeopleStore
from farebox.storage.plan_store import PostgresPlanStore
from farebox.storage.tenancy_store import PostgresTenantStore, read_deployment
from farebox.storage.tier_store import PostgresTierStore
from farebox.system.secrets import SecretBox, random_bytes
from farebox.tenancy.actors import Actor, ActorKind, Door
from farebox.tenancy.api_keys import KeyKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from psycopg import AsyncConnection

    from farebox.ledger.commands import AnyCommand, Result
    from farebox.operations.audit_log import AuditNote, Facts
    from farebox.operations.clock import Deployment
    from farebox.operations.tenants import OrganizationProfile, Project
    from farebox.system.postgres.server import RunningServer


ANSWER_SECONDS: Final = 30.0
"""How long a person waits for a command while the database is away; a server waits longer."""


class Session:
    """What a command works with."""

    def __init__(
        self,
        settings: Settings,
        connector: Connector,
        connection: AsyncConnection[tuple[Any, ...]],
        deployment: Deployment,
    ) -> None:
        self.settings = settings
        self.connector = connector
        self.connection = connection
        """In autocommit mode."""
        self.sandbox = deployment.sandbox
        self.by = shell_actor()
        self.tenants = PostgresTenantStore(connection, self.by)
        self.people_store = PostgresPeopleStore(connection, self.by)
        self.people = People(self.people_store, chance=random_bytes)
        self.audit = PostgresAuditLog(connection, self.by)
        self.administration = Administration(
            self.tenants,
            chance=random_bytes,
            key_kind=KeyKind.TEST if deployment.sandbox else KeyKind.LIVE,
        )
        self.secrets = SecretBox(settings.home)

    @property
    def tiers(self) -> TierDesk:
        """Usage tiers; what follows from an assignment is noted with it, not by itself."""
        store = PostgresTierStore(self.connection, self.by)
        return TierDesk(store, self.decide, chance=random_bytes)

    @property
    def plans(self) -> PlanDesk:
        """Price plans."""
        return PlanDesk(PostgresPlanStore(self.connection, self.by), chance=random_bytes)

    async def now(self) -> datetime:
        """The database's time."""
        return await self.tenants.now()

    async def new_id(self) -> UUID:
        """A new id."""
        return uuid7(await self.now(), random_bytes(RANDOM_BYTES))

    async def note(self, note: AuditNote) -> None:
        """Chain an event, as the last statement of the transaction that makes a change."""
        await append_event(self.connection, self.by, note)

    async def organization(self, text: str | None) -> OrganizationProfile:
        """The organisation that ``--org`` names; the only one there is where it is left out."""
        if text is None:
            return await self.administration.only_organization()
        return await self.administration.find_organization(text)

    async def within(self, text: str | None) -> UUID | None:
        """The id of the organisation that ``--org`` names; None, for all, where it is left out."""
        return None if text is None else (await self.administration.find_organization(text)).id

    async def narrowed(
        self, organization: str | None, project: str | None
    ) -> tuple[UUID | None, UUID | None]:
        """The ids that ``--org`` and ``--project`` name; None for each that is left out."""
        within = await self.within(organization)
        if project is None:
            return within, None
        found = await self.administration.find_project(project, organization_id=within)
        return within, found.id

    async def project(self, text: str, organization: str | None) -> Project:
        """The project that ``--project`` names, within ``--org`` where that is given."""
        within = await self.within(organization)
        return await self.administration.find_project(text, organization_id=within)

    async def submit(
        self, command: AnyCommand, *, before: Facts | None = None, reason: str = ""
    ) -> Result:
        """Have the engine decide and commit a command, and note it in the audit log.

        Args:
            command: What is asked for.
            before: What stood in its place, for the log; of a limit it is looked up.
            reason: Why, for the log.

        Raises:
            RefusedError: With the engine's own reason.
            UnavailableError: The database is away; the command may have taken effect.
        """
        if isinstance(command, SetLimit):
            standing = await list_limits(
                self.connection, command.organization_id, scopes=[command.scope.number]
            )
            before = limit_before(command, standing)
        return await audited(self.audit, self.decide, command, before=before, reason=reason)

    async def decide(self, command: AnyCommand) -> Result:
        """Have the engine decide and commit a command that follows from something noted already.

        Raises:
            RefusedError: With the engine's own reason.
            UnavailableError: The database is away; the command may have taken effect.
        """
        bookkeeper = Bookkeeper([PostgresBatchStore(self.connector)], monotonic=time.monotonic)
        bookkeeper.start()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                result = await bookkeeper.submit(command)
        except TimeoutError as error:
            raise UnavailableError(
                f"The database did not answer within {ANSWER_SECONDS:.0f} seconds; the command may "
                "have taken effect, so look before it is repeated."
            ) from error
        finally:
            await bookkeeper.aclose(drain_seconds=0.0)
        if isinstance(result, Refused):
            raise RefusedError(result.code, result.message)
        return result


def shell_actor() -> Actor:
    """Whoever runs this command, as the system knows them."""
    try:
        import pwd

        name = pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        name = f"uid {os.geteuid()}" if hasattr(os, "geteuid") else "unknown"
    behind = os.environ.get("SUDO_USER", "")
    shown = f"{name} (sudo by {behind})" if behind and behind != name else name
    return Actor(kind=ActorKind.SHELL, id=name, name=shown, door=Door.CLI)


def work(
    args: argparse.Namespace, job: Callable[[Session], Awaitable[int]], *, create: bool = False
) -> int:
    """Run a command's job with the database.

    Args:
        args: The command's arguments.
        job: Gives the exit status.
        create: Make a new (real) installation where there is none.

    Raises:
        NotFoundError: There is none, and it was not to be made.
        UnavailableError: The database cannot be reached.
    """

    async def run() -> int:
        async with opened(args, create=create) as session:
            return await job(session)

    return asyncio.run(run())


@asynccontextmanager
async def opened(
    args: argparse.Namespace, *, create: bool = False, sandbox: bool | None = None
) -> AsyncIterator[Session]:
    """Open the database that the arguments and the environment name.

    Args:
        args: The command's arguments.
        create: Make a new installation where there is none.
        sandbox: What the installation must be; None takes it as it is, and makes a new one real.

    Raises:
        NotFoundError: There is no installation, and none was to be made.
        IncompatibleError: It is the other kind, or newer than this program.
        UnavailableError: The database cannot be reached.
    """
    settings = read_settings(home=getattr(args, "home", None))
    server = None
    if settings.database_url is None:
        server = await asyncio.to_thread(_launch, settings, create=create)
    dsn = server.dsn if server is not None else settings.database_url
    assert dsn is not None
    try:
        await asyncio.to_thread(migrate, dsn, sandbox=sandbox)
        connector = Connector(dsn, name="cli")
        async with await connector.connect() as connection:
            yield Session(settings, connector, connection, await read_deployment(connection))
    except psycopg.OperationalError as error:
        raise UnavailableError(f"The database cannot be reached: {_first_line(error)}") from error
    except psycopg.ProgrammingError as error:
        if error.sqlstate is not None:
            raise
        raise InvalidInputError(
            DATABASE_VARIABLE, f"cannot be used: {_first_line(error)}"
        ) from error
    finally:
        if server is not None:
            await asyncio.to_thread(server.release)


def _launch(settings: Settings, *, create: bool) -> RunningServer:
    from farebox.system.postgres.launcher import launch

    if not create and not settings.home.is_dir():
        raise NotFoundError(
            f"There is no Farebox in {settings.home} yet: begin with `farebox init` (real credit) "
            "or `farebox serve --sandbox` (play money), or set FAREBOX_HOME or DATABASE_URL."
        )
    return launch(settings.home)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
