-- The outbox: what commands left word of, in the order of their ids.

-- name: read_events
-- With the transactions that were running: whatever the ids show as missing may be theirs.
SELECT e.id, e.organization_id, e.kind, e.at, e.facts,
       pg_snapshot_xmin(s.now)::text::bigint, pg_snapshot_xmax(s.now)::text::bigint
FROM (SELECT pg_current_snapshot() AS now) AS s, outbox e
WHERE e.id > %(after)s ORDER BY e.id LIMIT %(limit)s

-- name: read_events_of
SELECT id, organization_id, kind, at, facts FROM outbox
WHERE organization_id = %(organization_id)s AND id > %(after)s ORDER BY id LIMIT %(limit)s
