"""Who watches a storm: every commit by a trigger, and single looks from a third connection.

A trigger's row is part of the transaction that it tells of, so what it wrote down is each committed
state and no other. The looks are one short statement each under READ COMMITTED, as any outsider
would see the organisation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg

from farebox.storage import rows

_TRIGGERS = """
CREATE TABLE IF NOT EXISTS storm_commit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid,
    granted bigint, owed bigint, spent bigint, reserved bigint, unreserved bigint, frozen bigint,
    expired bigint, refunded bigint, unsecured bigint, floor bigint);
CREATE OR REPLACE FUNCTION storm_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO storm_commit (organization_id, granted, owed, spent, reserved, unreserved, frozen,
        expired, refunded, unsecured, floor)
    VALUES (NEW.id, NEW.granted_nanos, NEW.owed_nanos, NEW.spent_nanos, NEW.reserved_nanos,
        NEW.unreserved_nanos, NEW.frozen_nanos, NEW.expired_nanos, NEW.refunded_nanos,
        NEW.unsecured_held_nanos, NEW.floor_nanos);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER storm_commit AFTER UPDATE ON organization
    FOR EACH ROW EXECUTE FUNCTION storm_commit();
CREATE TABLE IF NOT EXISTS storm_limit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid, kind text,
    scope_id uuid, rules jsonb, windows jsonb);
CREATE OR REPLACE FUNCTION storm_limit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO storm_limit (organization_id, kind, scope_id, rules, windows)
    VALUES (NEW.organization_id, NEW.scope_kind, NEW.scope_id, NEW.rules, NEW.windows);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER storm_limit AFTER INSERT OR UPDATE ON scope_limit
    FOR EACH ROW EXECUTE FUNCTION storm_limit();
"""

_LOOK = """
SELECT spent_nanos + reserved_nanos + unsecured_held_nanos,
    granted_nanos + floor_nanos - expired_nanos - refunded_nanos - frozen_nanos,
    spent_nanos + reserved_nanos + unreserved_nanos + frozen_nanos + expired_nanos
        + refunded_nanos - granted_nanos - owed_nanos
FROM organization WHERE id = %s
"""


@dataclass
class Watched:
    """What was seen."""

    looks: int = 0
    most_over: int | None = None
    """Charged plus held, less what may be: by the looks."""
    imbalance: int = 0
    commits: int = 0
    commits_over: int = 0
    """Commits that put more beyond what may be."""
    most_over_at_commit: int | None = None
    limit_commits: int = 0
    limit_commits_over: int = 0


def install_watch(dsn: str) -> None:
    """Have every commit written down from now on."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_TRIGGERS)


def count_commits(dsn: str, organization_id: UUID, watched: Watched | None = None) -> Watched:
    """What was written down."""
    watched = watched or Watched()
    with psycopg.connect(dsn, autocommit=True) as connection:
        _count_commits(connection, organization_id, watched)
        _count_limits(connection, organization_id, watched)
    return watched


@contextmanager
def watching(dsn: str, organization_id: UUID) -> Iterator[Watched]:
    """Watch an organisation from before the storm until after it; the figures are there then."""
    watched = Watched()
    stop = threading.Event()
    install_watch(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        thread = threading.Thread(target=_look, args=(connection, organization_id, watched, stop))
        thread.start()
        try:
            yield watched
        finally:
            stop.set()
            thread.join()
    count_commits(dsn, organization_id, watched)


def _look(
    connection: psycopg.Connection, organization_id: UUID, watched: Watched, stop: threading.Event
) -> None:
    while not stop.wait(0.001):
        row = connection.execute(_LOOK, (organization_id,)).fetchone()
        assert row is not None
        total, allowed, imbalance = row
        watched.looks += 1
        over = total - allowed
        watched.most_over = over if watched.most_over is None else max(watched.most_over, over)
        watched.imbalance = max(watched.imbalance, abs(imbalance))


def _count_commits(connection: psycopg.Connection, organization_id: UUID, watched: Watched) -> None:
    """A floor that was lowered below what is held may be passed, but not further."""
    before = None
    for total, allowed in connection.execute(
        "SELECT spent + reserved + unsecured, granted + floor - expired - refunded - frozen"
        " FROM storm_commit WHERE organization_id = %s ORDER BY number",
        (organization_id,),
    ):
        over = total - allowed
        watched.commits += 1
        watched.commits_over += over > 0 and (before is None or total > before)
        most = watched.most_over_at_commit
        watched.most_over_at_commit = over if most is None else max(most, over)
        before = total


def _count_limits(connection: psycopg.Connection, organization_id: UUID, watched: Watched) -> None:
    """The same for the organisation's limit in each window, from its second commit on."""
    before: dict[object, int] = {}
    for row in connection.execute(
        "SELECT organization_id, kind, scope_id, rules, windows FROM storm_limit"
        " WHERE organization_id = %s ORDER BY number",
        (organization_id,),
    ):
        scope = rows.limits(row)
        watched.limit_commits += 1
        now: dict[object, int] = {}
        for period, rule in scope.rules.items():
            for window in scope.windows.get(period, ()):
                now[window.start] = total = window.used + window.held
                over = total > rule.maximum and total > before.get(window.start, total)
                watched.limit_commits_over += over
        before = now
