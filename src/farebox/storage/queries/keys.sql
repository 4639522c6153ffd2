-- Keys: how one is found on the hot path, made, revoked and listed.

-- name: find_key
SELECT k.id, k.name, k.organization_id, o.name, o.currency, o.zone, o.active, k.project_id, p.name,
       p.environment, p.default_output_tokens, p.archived_at, k.expires_at, k.revoked_at,
       p.slices
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
WHERE k.digest = %s

-- name: lock_organization_of_project
SELECT id FROM organization WHERE id = (SELECT organization_id FROM project WHERE id = %s)
FOR NO KEY UPDATE

-- name: lock_organization_of_key
SELECT id FROM organization WHERE id = (SELECT organization_id FROM api_key WHERE id = %s)
FOR NO KEY UPDATE

-- name: insert_key
-- Organisation and project come from the project's row, so that they cannot disagree.
INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix, expires_at)
SELECT %(id)s, p.organization_id, p.id, %(name)s, %(digest)s, %(prefix)s, %(expires_at)s
FROM project p WHERE p.id = %(project_id)s
RETURNING organization_id, created_at

-- name: revoke_key
UPDATE api_key SET revoked_at = coalesce(revoked_at, farebox_now()) WHERE id = %s
RETURNING revoked_at

-- name: list_keys
SELECT k.id, k.name, k.organization_id, k.project_id, p.name, k.prefix, k.created_at, k.expires_at,
       k.revoked_at, p.archived_at, o.active, o.name
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
WHERE (%(id)s::uuid IS NULL OR k.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(k.name) = lower(%(name)s))
  AND (%(organization_id)s::uuid IS NULL OR k.organization_id = %(organization_id)s)
  AND (%(project_id)s::uuid IS NULL OR k.project_id = %(project_id)s)
  AND (%(after)s::uuid IS NULL OR k.id > %(after)s)
ORDER BY k.id LIMIT %(limit)s

-- name: find_management_key
SELECT id, name, prefix, created_at, revoked_at FROM management_key WHERE digest = %s

-- name: insert_management_key
INSERT INTO management_key (id, name, digest, prefix)
VALUES (%(id)s, %(name)s, %(digest)s, %(prefix)s)
RETURNING created_at

-- name: revoke_management_key
UPDATE management_key SET revoked_at = coalesce(revoked_at, farebox_now()) WHERE id = %s
RETURNING revoked_at

-- name: list_management_keys
SELECT id, name, prefix, created_at, revoked_at FROM management_key
WHERE (%(after)s::uuid IS NULL OR id > %(after)s)
ORDER BY id LIMIT %(limit)s
