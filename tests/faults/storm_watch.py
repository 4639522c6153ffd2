"""Who watches a storm: every commit by triggers, and single looks from another connection.

What is watched is counted anew, from the rows of holds and calls as they come and go, not taken
from the totals that the engine keeps; those have to say the same at every commit. A trigger's row
is part of the transaction that it tells of, and is written at its very end: it is each committed
state and no other. The looks are one short statement each, as any outsider would see it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

import psycopg

from farebox.ledger.counters import MICROS_PER_SECOND
from farebox.ledger.limits import Period
from farebox.ledger.scopes import ScopeKind
from farebox.storage import rows

_COUNTING: LiteralString = """
CREATE TABLE storm_truth (
    organization_id uuid, month timestamp, charged numeric NOT NULL, held numeric NOT NULL,
    PRIMARY KEY (organization_id, month));
INSERT INTO storm_truth SELECT organization_id, date_trunc('month', admitted_at AT TIME ZONE 'UTC'),
        sum(charged), sum(held)
    FROM (SELECT organization_id, admitted_at, charge_nanos AS charged, 0 AS held FROM call
        UNION ALL SELECT organization_id, admitted_at, 0, amount_nanos FROM hold) AS every
    GROUP BY 1, 2;

CREATE FUNCTION storm_hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO storm_truth AS t SELECT organization_id,
            date_trunc('month', admitted_at AT TIME ZONE 'UTC'), 0, sum(amount_nanos)
        FROM added GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (organization_id, month) DO UPDATE SET held = t.held + excluded.held;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO storm_truth AS t SELECT organization_id,
            date_trunc('month', admitted_at AT TIME ZONE 'UTC'), 0, -sum(amount_nanos)
        FROM gone GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (organization_id, month) DO UPDATE SET held = t.held + excluded.held;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER storm_hold_comes AFTER INSERT ON hold REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION storm_hold();
CREATE TRIGGER storm_hold_changes AFTER UPDATE ON hold
    REFERENCING NEW TABLE AS added OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION storm_hold();
CREATE TRIGGER storm_hold_goes AFTER DELETE ON hold REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION storm_hold();

CREATE FUNCTION storm_call() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO storm_truth AS t SELECT organization_id,
        date_trunc('month', admitted_at AT TIME ZONE 'UTC'), sum(charge_nanos), 0
    FROM added GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (organization_id, month) DO UPDATE SET charged = t.charged + excluded.charged;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO storm_truth AS t SELECT organization_id,
            date_trunc('month', admitted_at AT TIME ZONE 'UTC'), -sum(charge_nanos), 0
        FROM gone GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (organization_id, month) DO UPDATE SET charged = t.charged + excluded.charged;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER storm_call_comes AFTER INSERT ON call REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION storm_call();
CREATE TRIGGER storm_call_changes AFTER UPDATE ON call
    REFERENCING NEW TABLE AS added OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION storm_call();
"""

_WRITING: LiteralString = """
CREATE TABLE storm_commit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid,
    charged numeric, held numeric, spent bigint, kept bigint, allowed bigint);
CREATE FUNCTION storm_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO storm_commit (organization_id, charged, held, spent, kept, allowed)
    SELECT o.id, t.charged, t.held, o.spent_nanos, o.reserved_nanos + o.unsecured_held_nanos,
        o.granted_nanos + o.floor_nanos - o.expired_nanos - o.refunded_nanos - o.frozen_nanos
    FROM organization o, (
        SELECT coalesce(sum(charged), 0) AS charged, coalesce(sum(held), 0) AS held
        FROM storm_truth WHERE organization_id = NEW.id) AS t
    WHERE o.id = NEW.id;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER storm_commit AFTER UPDATE ON organization
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION storm_commit();

CREATE TABLE storm_limit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid,
    kind text, ref text, rules text, windows bigint[], truth jsonb);
CREATE FUNCTION storm_limit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO storm_limit (organization_id, kind, ref, rules, windows, truth)
    SELECT l.organization_id, l.kind, l.ref, l.rules::text, l.windows, (
        SELECT coalesce(jsonb_object_agg(
            extract(epoch FROM month AT TIME ZONE 'UTC')::bigint, charged + held), '{}')
        FROM storm_truth WHERE organization_id = NEW.organization_id)
    FROM scope_limit l
    WHERE l.organization_id = NEW.organization_id AND l.number = NEW.number;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER storm_limit AFTER INSERT OR UPDATE ON scope_limit
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION storm_limit();
"""

_VERSIONS: LiteralString = """
CREATE FUNCTION storm_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NOT EXISTS (SELECT FROM organization o WHERE o.xmin = pg_current_xact_id()::xid
        AND o.id = CASE TG_OP WHEN 'DELETE' THEN OLD.organization_id ELSE NEW.organization_id END)
    THEN
        RAISE EXCEPTION 'a row of % changed, the organisation''s version did not', TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER storm_version AFTER INSERT OR UPDATE OR DELETE ON hold
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION storm_version();
CREATE CONSTRAINT TRIGGER storm_version AFTER INSERT OR UPDATE OR DELETE ON credit_grant
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION storm_version();
CREATE CONSTRAINT TRIGGER storm_version AFTER INSERT OR UPDATE OR DELETE ON scope_limit
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION storm_version();
"""
"""By its version lanes remember an organisation: no commit may change a row of it and leave that as
it was (ADR 21)."""

_LOOK = """
SELECT spent_nanos + reserved_nanos + unsecured_held_nanos,
    granted_nanos + floor_nanos - expired_nanos - refunded_nanos - frozen_nanos
FROM organization WHERE id = %s
"""


@dataclass
class Watched:
    """What was seen."""

    looks: int = 0
    looks_over: int = 0
    most_over: int | None = None
    """Nanos charged and held at a commit, less what may be; a floor that fell makes it positive."""
    commits: int = 0
    overshoot: int = 0
    """Nanos by which a commit went beyond what may be, or further beyond it, at worst."""
    disagreements: int = 0
    """Commits at which the engine's totals were not the sums of its rows."""
    limit_commits: int = 0
    limit_overshoot: int = 0
    """The same for a limit; one that was lowered may be passed, but nobody goes further."""

    def figures(self) -> dict[str, int]:
        """What is worth printing."""
        return {
            "commits watched": self.commits,
            "commits of a limit watched": self.limit_commits,
            "looks from outside": self.looks,
            "worst nanos over credit and floor": self.overshoot,
            "worst nanos over a limit": self.limit_overshoot,
        }

    def assert_never_over(self) -> None:
        """Nobody was over at any commit, by rows and by totals."""
        assert self.commits > 0
        assert (self.overshoot, self.limit_overshoot) == (0, 0), self
        assert self.disagreements == 0, self


def install_watch(dsn: str) -> None:
    """Have every commit written down from now on."""
    with psycopg.connect(dsn, autocommit=True) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(1)")
        (there,) = connection.execute("SELECT to_regclass('storm_truth')").fetchone() or (None,)
        if there is None:
            connection.execute("LOCK TABLE organization, hold, call IN SHARE ROW EXCLUSIVE MODE")
            connection.execute(_COUNTING)
            connection.execute(_WRITING)
            connection.execute(_VERSIONS)


def count_commits(dsn: str, organization_id: UUID, watched: Watched) -> None:
    """Add what was written down."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        _count_commits(connection, organization_id, watched)
        _count_limits(connection, organization_id, watched)


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
        total, allowed = row
        watched.looks += 1
        watched.looks_over += total > allowed


def _beyond(total: int, allowed: int, before: int | None) -> int:
    """By how much this went beyond what is allowed; what was beyond before is not counted again."""
    if before is None:
        return max(0, total - allowed)
    return max(0, total - max(allowed, before))


def _count_commits(connection: psycopg.Connection, organization_id: UUID, watched: Watched) -> None:
    before: int | None = None
    for charged, held, spent, kept, allowed in connection.execute(
        "SELECT charged, held, spent, kept, allowed FROM storm_commit WHERE organization_id = %s"
        " ORDER BY number",
        (organization_id,),
    ):
        total = int(charged + held)
        watched.commits += 1
        watched.disagreements += (charged, held) != (spent, kept)
        watched.overshoot = max(watched.overshoot, _beyond(total, allowed, before))
        over = total - allowed
        watched.most_over = over if watched.most_over is None else max(watched.most_over, over)
        before = total


def _count_limits(connection: psycopg.Connection, organization_id: UUID, watched: Watched) -> None:
    """The same for every limit, in each of its windows."""
    before: dict[tuple[str, str], dict[tuple[int, int], int]] = {}
    for *row, truth in connection.execute(
        "SELECT organization_id, kind, ref, rules, windows, truth FROM storm_limit"
        " WHERE organization_id = %s ORDER BY number",
        (organization_id,),
    ):
        scope = rows.limits(tuple(row))
        watched.limit_commits += 1
        now: dict[tuple[int, int], int] = {}
        for rule in scope.rules:
            for window in scope.windows.get(rule.number, ()):
                total = window.used + window.held
                earlier = before.get((scope.kind, scope.ref), {})
                was = earlier.get((rule.number, window.start), total)
                beyond = _beyond(total, rule.maximum, was)
                watched.limit_overshoot = max(watched.limit_overshoot, beyond)
                if scope.kind is ScopeKind.ORGANIZATION and rule.period is Period.MONTH:
                    month = str(window.start // MICROS_PER_SECOND)
                    watched.disagreements += total != truth.get(month, 0)
                now[rule.number, window.start] = total
        # A limit that is set again knows nothing of what was charged while there was none.
        before[scope.kind, scope.ref] = now
