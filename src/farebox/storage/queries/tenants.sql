-- Organisations, projects, management keys and people of the console.

-- name: read_now
SELECT farebox_now()

-- name: read_deployment
SELECT sandbox, clock_offset, farebox_now() FROM deployment

-- name: lock_organization
SELECT zone FROM organization WHERE id = %s FOR NO KEY UPDATE

-- name: insert_organization
INSERT INTO organization (id, name, currency, zone, floor_nanos, on_overrun, on_lapse)
VALUES (%(id)s, %(name)s, %(currency)s, %(zone)s, %(floor)s, %(on_overrun)s, %(on_lapse)s)
RETURNING id, name, currency, zone, active, billing_mode, floor_nanos, on_overrun, on_lapse,
    created_at

-- name: change_organization
UPDATE organization SET
    name = coalesce(%(name)s, name), zone = coalesce(%(zone)s, zone),
    active = coalesce(%(active)s, active), on_overrun = coalesce(%(on_overrun)s, on_overrun),
    on_lapse = coalesce(%(on_lapse)s, on_lapse)
WHERE id = %(id)s
RETURNING id, name, currency, zone, active, billing_mode, floor_nanos, on_overrun, on_lapse,
    created_at

-- name: count_limits
SELECT count(*) FROM scope_limit WHERE organization_id = %s AND json_array_length(rules) > 0

-- name: list_organizations
SELECT id, name, currency, zone, active, billing_mode, floor_nanos, on_overrun, on_lapse, created_at
FROM organization
WHERE (%(id)s::uuid IS NULL OR id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(name) = lower(%(name)s))
  AND (%(after)s::uuid IS NULL OR id > %(after)s)
ORDER BY id LIMIT %(limit)s

-- name: insert_project
INSERT INTO project (id, organization_id, name, environment, default_output_tokens, slices)
VALUES (%(id)s, %(organization_id)s, %(name)s, %(environment)s, %(default_output_tokens)s,
        %(slices)s)
RETURNING created_at

-- name: list_projects
SELECT p.id, p.organization_id, o.name, p.name, p.environment, p.default_output_tokens,
       p.created_at, p.archived_at, p.slices
FROM project p JOIN organization o ON o.id = p.organization_id
WHERE (%(id)s::uuid IS NULL OR p.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(p.name) = lower(%(name)s))
  AND (%(organization_id)s::uuid IS NULL OR p.organization_id = %(organization_id)s)
  AND (%(after)s::uuid IS NULL OR p.id > %(after)s)
ORDER BY p.id LIMIT %(limit)s

-- name: put_console_user
-- The person with that address, made or given a new password.
INSERT INTO console_user (id, email, password_hash)
VALUES (%(id)s, %(email)s, %(password_hash)s)
ON CONFLICT ((lower(email))) DO UPDATE SET password_hash = excluded.password_hash
RETURNING id

-- name: find_console_user
SELECT id, email, password_hash, created_at FROM console_user WHERE lower(email) = lower(%s)

-- name: read_console_user
SELECT id, email, password_hash, created_at FROM console_user WHERE id = %s

-- name: end_console_sessions
DELETE FROM console_session WHERE user_id = %s

-- name: advance_clock
UPDATE deployment SET clock_offset = clock_offset + %s WHERE sandbox
RETURNING sandbox, clock_offset, farebox_now()
