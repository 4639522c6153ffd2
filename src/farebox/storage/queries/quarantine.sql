-- Commands that the database rejected, and an operator's ruling on them.

-- name: list_quarantined
SELECT q.id, q.at, q.organization_id, o.name, q.command_kind, (q.command ->> 'call_id')::uuid,
    q.error, q.ruled_at, q.command::text
FROM quarantine q LEFT JOIN organization o ON o.id = q.organization_id
WHERE (%(all)s OR q.ruled_at IS NULL)
  AND (%(id)s::bigint IS NULL OR q.id = %(id)s)
  AND (%(after)s::bigint IS NULL OR q.id > %(after)s)
ORDER BY q.id LIMIT %(limit)s

-- name: rule_quarantined
-- The organisation's row first: the sweep must not see the ruling before its own lock.
WITH locked AS (
    SELECT o.id FROM quarantine q JOIN organization o ON o.id = q.organization_id
    WHERE q.id = %(id)s FOR NO KEY UPDATE OF o
)
UPDATE quarantine SET ruled_at = farebox_now()
WHERE id = %(id)s AND ruled_at IS NULL AND organization_id IN (SELECT id FROM locked)
RETURNING id
