-- The audit log: one chain, appended to under the lock of its head.

-- name: lock_head
-- The last lock of a transaction: after organisations, catalogue and directory.
SELECT sequence, hash, farebox_now() FROM audit_head FOR UPDATE

-- name: append
WITH moved AS (
    UPDATE audit_head SET sequence = %(sequence)s, hash = %(hash)s)
INSERT INTO audit_event (sequence, at, actor_kind, actor_id, actor_name, door, address, request_id,
    action, subject_kind, subject_id, organization_id, outcome, reason, before, after,
    previous_hash, hash)
VALUES (%(sequence)s, %(at)s, %(actor_kind)s, %(actor_id)s, %(actor_name)s, %(door)s, %(address)s,
    %(request_id)s, %(action)s, %(subject_kind)s, %(subject_id)s, %(organization_id)s, %(outcome)s,
    %(reason)s, %(before)s::json, %(after)s::json, %(previous_hash)s, %(hash)s)

-- name: list
SELECT sequence, at, actor_kind, actor_id, actor_name, door, address, request_id, action,
    subject_kind, subject_id, organization_id, outcome, reason, before::text, after::text,
    previous_hash, hash
FROM audit_event
WHERE (%(organization_id)s::uuid IS NULL OR organization_id = %(organization_id)s)
  AND (%(actor_id)s::text IS NULL OR actor_id = %(actor_id)s)
  AND (%(action)s::text IS NULL OR action = %(action)s)
  AND (%(subject_id)s::text IS NULL OR subject_id = %(subject_id)s)
  AND (%(before)s::bigint IS NULL OR sequence < %(before)s)
ORDER BY sequence DESC LIMIT %(limit)s

-- name: onward
SELECT sequence, at, actor_kind, actor_id, actor_name, door, address, request_id, action,
    subject_kind, subject_id, organization_id, outcome, reason, before::text, after::text,
    previous_hash, hash
FROM audit_event WHERE sequence > %(after)s ORDER BY sequence LIMIT %(limit)s

-- name: read_head
SELECT sequence, hash FROM audit_head

-- name: begin
INSERT INTO audit_pending (id, actor, note)
VALUES (gen_random_uuid(), %(actor)s::json, %(note)s::json) RETURNING id

-- name: end
DELETE FROM audit_pending WHERE id = %s RETURNING id

-- name: take_abandoned
-- One at a time, and no two processes the same.
DELETE FROM audit_pending WHERE id = (
    SELECT id FROM audit_pending WHERE at < clock_timestamp() - %s::interval
    ORDER BY at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING actor::text, note::text
