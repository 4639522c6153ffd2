-- Organisations, projects, management keys and people of the console.

-- name: read_now
SELECT farebox_now()

-- name: read_deployment
SELECT sandbox, clock_offset, farebox_now() FROM deployment

-- name: lock_organization
SELECT id FROM organization WHERE id = %s FOR NO KEY UPDATE

-- name: insert_organization
INSERT INTO organization (id, name, currency, zone, floor_nanos, on_overrun, on_lapse, plan_id)
VALUES (%(id)s, %(name)s, %(currency)s, %(zone)s, %(floor)s, %(on_overrun)s, %(on_lapse)s,
        %(plan_id)s)
RETURNING id

-- name: change_organization
UPDATE organization SET
    name = coalesce(%(name)s, name), active = coalesce(%(active)s, active),
    on_overrun = coalesce(%(on_overrun)s, on_overrun), on_lapse = coalesce(%(on_lapse)s, on_lapse)
WHERE id = %(id)s
RETURNING id

-- name: grow_directory
-- Nodes that keep facts of projects and plans with a key forget them.
UPDATE directory SET revision = revision + 1 RETURNING revision

-- name: list_organizations
SELECT o.id, o.name, o.currency, o.zone, o.active, o.billing_mode, o.floor_nanos, o.on_overrun,
       o.on_lapse, o.created_at, o.plan_id, p.name
FROM organization o LEFT JOIN price_plan p ON p.id = o.plan_id
WHERE (%(id)s::uuid IS NULL OR o.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(o.name) = lower(%(name)s))
  AND (%(among)s::uuid[] IS NULL OR o.id = ANY(%(among)s))
  AND (%(after)s::uuid IS NULL OR o.id > %(after)s)
ORDER BY o.id LIMIT %(limit)s

-- name: insert_project
INSERT INTO project (id, organization_id, name, environment, default_output_tokens, slices, purpose,
    owner, allowed_models, output_tokens_max, stores_content, content_retention_days, feature_caps)
VALUES (%(id)s, %(organization_id)s, %(name)s, %(environment)s, %(default_output_tokens)s,
    %(slices)s, %(purpose)s, %(owner)s, %(allowed_models)s, %(output_tokens_max)s,
    %(stores_content)s, %(content_retention_days)s, %(feature_caps)s::jsonb)
RETURNING id

-- name: lock_organization_of_project
SELECT id FROM organization WHERE id = (SELECT organization_id FROM project WHERE id = %s)
FOR NO KEY UPDATE

-- name: write_project
UPDATE project SET name = %(name)s, environment = %(environment)s,
    default_output_tokens = %(default_output_tokens)s, slices = %(slices)s, purpose = %(purpose)s,
    owner = %(owner)s, allowed_models = %(allowed_models)s,
    output_tokens_max = %(output_tokens_max)s, stores_content = %(stores_content)s,
    content_retention_days = %(content_retention_days)s, feature_caps = %(feature_caps)s::jsonb
WHERE id = %(id)s
RETURNING id

-- name: archive_project
UPDATE project SET archived_at = coalesce(archived_at, farebox_now()) WHERE id = %s RETURNING id

-- name: list_projects
SELECT p.id, p.organization_id, o.name, p.name, p.environment, p.default_output_tokens,
       p.created_at, p.archived_at, p.slices, p.purpose, p.owner, p.allowed_models,
       p.output_tokens_max, p.stores_content, p.content_retention_days, p.feature_caps
FROM project p JOIN organization o ON o.id = p.organization_id
WHERE (%(id)s::uuid IS NULL OR p.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(p.name) = lower(%(name)s))
  AND (%(organization_id)s::uuid IS NULL OR p.organization_id = %(organization_id)s)
  AND (NOT %(without_owner)s OR p.owner = '' AND p.archived_at IS NULL)
  AND (%(after)s::uuid IS NULL OR p.id > %(after)s)
ORDER BY p.id LIMIT %(limit)s

-- name: put_console_user
-- The person with that address, made or given a new password: a closed login is open again. The
-- first one is an operator.
WITH before AS (SELECT disabled_at FROM console_user WHERE lower(email) = lower(%(email)s))
INSERT INTO console_user (id, email, password_hash, operator)
VALUES (%(id)s, %(email)s, %(password_hash)s, %(operator)s OR NOT EXISTS (
    SELECT FROM console_user WHERE operator))
ON CONFLICT ((lower(email))) DO UPDATE SET password_hash = excluded.password_hash,
    disabled_at = NULL, operator = console_user.operator OR excluded.operator
RETURNING id, operator, xmax = 0, EXISTS (SELECT FROM before WHERE disabled_at IS NOT NULL)

-- name: find_console_user
SELECT id, email, password_hash, created_at FROM console_user
WHERE lower(email) = lower(%s) AND disabled_at IS NULL

-- name: read_console_user
SELECT id, email, password_hash, created_at FROM console_user WHERE id = %s

-- name: end_console_sessions
DELETE FROM console_session WHERE user_id = %s

-- name: advance_clock
UPDATE deployment SET clock_offset = clock_offset + %s WHERE sandbox
RETURNING sandbox, clock_offset, farebox_now()
