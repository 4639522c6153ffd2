"""Every change of holds, calls and limits, written down by triggers in the order of the commits.

A trigger's row is part of the transaction it tells of, so what is read afterwards is each committed
state and no other. One organisation's rows change under its lock alone: numbers and commits of one
organisation are in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import psycopg

_INSTALL: LiteralString = """
CREATE TABLE limit_event (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, txid bigint DEFAULT txid_current(),
    at timestamptz DEFAULT farebox_now(), organization_id uuid, what text, facts jsonb);
CREATE INDEX limit_event_organization ON limit_event (organization_id, number);

CREATE FUNCTION limit_event_hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO limit_event (organization_id, what, facts)
        VALUES (OLD.organization_id, 'hold gone', jsonb_build_object('id', OLD.call_id));
        RETURN NULL;
    END IF;
    INSERT INTO limit_event (organization_id, what, facts)
    VALUES (NEW.organization_id, 'hold', jsonb_build_object(
        'id', NEW.call_id, 'at', (extract(epoch FROM NEW.admitted_at) * 1000000)::bigint,
        'project', NEW.project_id, 'key', NEW.key_id, 'feature', NEW.feature,
        'environment', NEW.environment, 'user', NEW.user_ref, 'run', NEW.run_ref, 'tags', NEW.tags,
        'model', NEW.model, 'money', NEW.amount_nanos, 'tokens', NEW.tokens));
    RETURN NULL;
END $$;
CREATE TRIGGER limit_event_hold AFTER INSERT OR UPDATE OR DELETE ON hold
    FOR EACH ROW EXECUTE FUNCTION limit_event_hold();

CREATE FUNCTION limit_event_call() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO limit_event (organization_id, what, facts)
    VALUES (NEW.organization_id, 'call', jsonb_build_object(
        'id', NEW.id, 'at', (extract(epoch FROM NEW.admitted_at) * 1000000)::bigint,
        'project', NEW.project_id, 'key', NEW.key_id, 'feature', NEW.feature,
        'environment', NEW.environment, 'user', NEW.user_ref, 'run', NEW.run_ref, 'tags', NEW.tags,
        'model', NEW.model, 'money', NEW.charge_nanos,
        'tokens', NEW.input_tokens + NEW.output_tokens));
    RETURN NULL;
END $$;
CREATE TRIGGER limit_event_call AFTER INSERT OR UPDATE ON call
    FOR EACH ROW EXECUTE FUNCTION limit_event_call();

CREATE FUNCTION limit_event_limit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO limit_event (organization_id, what, facts)
    VALUES (NEW.organization_id, 'limits', jsonb_build_object(
        'kind', NEW.kind, 'ref', NEW.ref, 'rules', NEW.rules::text,
        'windows', to_jsonb(NEW.windows)));
    RETURN NULL;
END $$;
CREATE TRIGGER limit_event_limit AFTER INSERT OR UPDATE ON scope_limit
    FOR EACH ROW EXECUTE FUNCTION limit_event_limit();

CREATE FUNCTION limit_event_zone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO limit_event (organization_id, what, facts)
    VALUES (NEW.id, 'zone', jsonb_build_object('zone', NEW.zone));
    RETURN NULL;
END $$;
CREATE TRIGGER limit_event_zone AFTER UPDATE ON organization
    FOR EACH ROW WHEN (OLD.zone <> NEW.zone) EXECUTE FUNCTION limit_event_zone();
"""


class Event(NamedTuple):
    """One row that came, changed or went."""

    what: str
    facts: dict[str, Any]


class Commit(NamedTuple):
    """What one transaction changed of one organisation."""

    at: int
    """Engine time at its end, in microseconds since 1970."""
    events: list[Event]


def install_log(dsn: str) -> None:
    """Have everything written down from now on."""
    with psycopg.connect(dsn, autocommit=True) as connection, connection.transaction():
        connection.execute(_INSTALL)


def read_log(dsn: str, organization_id: UUID) -> Iterator[Commit]:
    """The commits of one organisation, in order."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT txid, (extract(epoch FROM at) * 1000000)::bigint, what, facts FROM limit_event"
            " WHERE organization_id = %s ORDER BY number",
            (organization_id,),
        ).fetchall()
    for _, group in groupby(rows, key=lambda row: row[0]):
        events = list(group)
        yield Commit(events[-1][1], [Event(what, facts) for _, _, what, facts in events])
