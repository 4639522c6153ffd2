-- Keys: how one is found on the hot path, made, revoked and listed.

-- name: find_key
SELECT k.id, k.name, k.organization_id, o.name, o.currency, o.zone, o.active, k.project_id, p.name,
       p.environment, p.default_output_tokens, p.archived_at, k.expires_at, k.revoked_at,
       p.slices, p.allowed_models, p.output_tokens_max, o.plan_id,
       CASE WHEN p.stores_content THEN p.content_retention_days END, p.feature_caps
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
WHERE k.digest = %s

-- name: lock_organization_of_key
SELECT id FROM organization WHERE id = (SELECT organization_id FROM api_key WHERE id = %s)
FOR NO KEY UPDATE

-- name: insert_key
-- Organisation and project come from the project's row, so that they cannot disagree.
INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix, expires_at,
    service_account_id, user_id, replaces_id)
SELECT %(id)s, p.organization_id, p.id, %(name)s, %(digest)s, %(prefix)s, %(expires_at)s,
    %(service_account_id)s, %(user_id)s, %(replaces_id)s
FROM project p WHERE p.id = %(project_id)s
RETURNING id

-- name: owner_is_here
-- A key's owner is an account of its project that is not disabled, or a member.
SELECT (%(service_account_id)s::uuid IS NULL OR EXISTS (
            SELECT FROM service_account WHERE id = %(service_account_id)s
            AND project_id = %(project_id)s AND disabled_at IS NULL))
   AND (%(user_id)s::uuid IS NULL OR EXISTS (
            SELECT FROM member m JOIN project p ON p.organization_id = m.organization_id
            WHERE m.user_id = %(user_id)s AND p.id = %(project_id)s))

-- name: end_key
UPDATE api_key SET expires_at = least(expires_at, %(ends_at)s)
WHERE id = %(id)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > farebox_now())
RETURNING id

-- name: revoke_key
UPDATE api_key SET revoked_at = coalesce(revoked_at, farebox_now()) WHERE id = %s
RETURNING revoked_at

-- name: list_keys
SELECT k.id, k.name, k.organization_id, k.project_id, p.name, k.prefix, k.created_at, k.expires_at,
       k.revoked_at, p.archived_at, o.active, o.name, k.service_account_id, a.name, k.user_id,
       c.email, u.used_at, u.project_id, k.replaces_id, r.id
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
LEFT JOIN service_account a ON a.id = k.service_account_id
LEFT JOIN console_user c ON c.id = k.user_id
LEFT JOIN key_use u ON u.key_id = k.id
LEFT JOIN api_key r ON r.replaces_id = k.id
WHERE (%(id)s::uuid IS NULL OR k.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(k.name) = lower(%(name)s))
  AND (%(organization_id)s::uuid IS NULL OR k.organization_id = %(organization_id)s)
  AND (%(project_id)s::uuid IS NULL OR k.project_id = %(project_id)s)
  AND (%(after)s::uuid IS NULL OR k.id > %(after)s)
ORDER BY k.id LIMIT %(limit)s

-- name: read_details
-- What a key is told of itself; what it may spend is read beside it.
SELECT k.id, k.name, k.organization_id, k.project_id, p.name, k.prefix, k.created_at, k.expires_at,
       k.revoked_at, p.archived_at, o.active, o.name, k.service_account_id, a.name, k.user_id,
       c.email, u.used_at, u.project_id, k.replaces_id, r.id, p.environment,
       p.default_output_tokens, p.allowed_models, p.output_tokens_max, p.feature_caps
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
LEFT JOIN service_account a ON a.id = k.service_account_id
LEFT JOIN console_user c ON c.id = k.user_id
LEFT JOIN key_use u ON u.key_id = k.id
LEFT JOIN api_key r ON r.replaces_id = k.id
WHERE k.digest = %s

-- name: read_key_limits
-- Of the scopes that a key's calls are counted under, the defaults of every kind, and allocations.
SELECT organization_id, kind, ref, rules::text, windows FROM scope_limit
WHERE organization_id = %(organization_id)s AND number = ANY(%(numbers)s::bigint[])
  AND NOT everywhere
UNION ALL
SELECT organization_id, kind, ref, rules::text, windows FROM scope_limit
WHERE organization_id = %(organization_id)s AND everywhere

-- name: note_uses
-- To the minute: a key that is used all the time is written once a minute, outside money.
INSERT INTO key_use (key_id, project_id, used_at)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[])
ON CONFLICT (key_id) DO UPDATE SET project_id = excluded.project_id, used_at = excluded.used_at
WHERE key_use.used_at < excluded.used_at

-- name: find_management_key
SELECT k.id, k.name, k.prefix, k.created_at, k.revoked_at, k.expires_at, k.organization_id, k.role,
    k.user_id, u.email
FROM management_key k LEFT JOIN console_user u ON u.id = k.user_id
WHERE k.digest = %s

-- name: insert_management_key
INSERT INTO management_key (id, name, digest, prefix, organization_id, role, expires_at, user_id)
VALUES (%(id)s, %(name)s, %(digest)s, %(prefix)s, %(organization_id)s, %(role)s, %(expires_at)s,
    %(user_id)s)
RETURNING id

-- name: maker_of_management_key
SELECT user_id, revoked_at IS NULL, expires_at FROM management_key WHERE id = %s FOR SHARE

-- name: rights_of_maker
-- Held until the key is there, so that nobody loses the rights meanwhile.
SELECT u.operator AND u.disabled_at IS NULL, CASE WHEN u.disabled_at IS NULL THEN m.role END
FROM console_user u
LEFT JOIN member m ON m.user_id = u.id AND m.organization_id = %(organization_id)s
WHERE u.id = %(user_id)s FOR SHARE OF u

-- name: live_keys_of_maker
-- With what their maker is where they manage.
SELECT k.id, k.role, u.operator AND u.disabled_at IS NULL, m.role
FROM management_key k
JOIN console_user u ON u.id = k.user_id
LEFT JOIN member m ON m.user_id = k.user_id AND m.organization_id = k.organization_id
WHERE k.user_id = %(user_id)s AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > farebox_now())
  AND (%(organization_id)s::uuid IS NULL OR k.organization_id = %(organization_id)s)
ORDER BY k.id

-- name: lock_organization_of_management_key
SELECT id FROM organization
WHERE id = (SELECT organization_id FROM management_key WHERE id = %s) FOR NO KEY UPDATE

-- name: revoke_management_key
UPDATE management_key SET revoked_at = coalesce(revoked_at, farebox_now()) WHERE id = %s
RETURNING revoked_at

-- name: list_management_keys
SELECT k.id, k.name, k.prefix, k.created_at, k.revoked_at, k.expires_at, k.organization_id, k.role,
    k.user_id, u.email
FROM management_key k LEFT JOIN console_user u ON u.id = k.user_id
WHERE (%(id)s::uuid IS NULL OR k.id = %(id)s)
  AND (%(organization_id)s::uuid IS NULL OR k.organization_id = %(organization_id)s)
  AND (%(after)s::uuid IS NULL OR k.id > %(after)s)
ORDER BY k.id LIMIT %(limit)s
