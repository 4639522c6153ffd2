-- Service accounts: the owners of keys for production jobs.

-- name: insert
INSERT INTO service_account (id, organization_id, project_id, name, purpose)
SELECT %(id)s, p.organization_id, p.id, %(name)s, %(purpose)s
FROM project p WHERE p.id = %(project_id)s
RETURNING id

-- name: lock_organization
SELECT id FROM organization
WHERE id = (SELECT organization_id FROM service_account WHERE id = %s) FOR NO KEY UPDATE

-- name: disable
UPDATE service_account SET disabled_at = coalesce(disabled_at, farebox_now()) WHERE id = %s
RETURNING id

-- name: revoke_keys
UPDATE api_key SET revoked_at = farebox_now()
WHERE service_account_id = %s AND revoked_at IS NULL
RETURNING id

-- name: list
SELECT a.id, a.organization_id, a.project_id, p.name, a.name, a.purpose, a.created_at,
       a.disabled_at
FROM service_account a JOIN project p ON p.id = a.project_id
WHERE (%(id)s::uuid IS NULL OR a.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(a.name) = lower(%(name)s))
  AND (%(project_id)s::uuid IS NULL OR a.project_id = %(project_id)s)
  AND (%(organization_id)s::uuid IS NULL OR a.organization_id = %(organization_id)s)
  AND (%(after)s::uuid IS NULL OR a.id > %(after)s)
ORDER BY a.id LIMIT %(limit)s
