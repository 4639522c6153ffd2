-- People: logins, members and invitations.

-- name: list_users
SELECT id, email, operator, created_at, disabled_at FROM console_user
WHERE (%(id)s::uuid IS NULL OR id = %(id)s)
  AND (%(email)s::text IS NULL OR lower(email) = lower(%(email)s))
  AND (%(after)s::uuid IS NULL OR id > %(after)s)
ORDER BY id LIMIT %(limit)s

-- name: read_password_hash
SELECT password_hash FROM console_user WHERE id = %s AND disabled_at IS NULL

-- name: insert_user
INSERT INTO console_user (id, email, password_hash, operator)
VALUES (%(id)s, %(email)s, %(password_hash)s, %(operator)s)
RETURNING id

-- name: lock_operators
-- Whoever takes operators away holds them all, so that two cannot take the last two.
SELECT id FROM console_user WHERE operator AND disabled_at IS NULL ORDER BY id FOR NO KEY UPDATE

-- name: set_operator
UPDATE console_user SET operator = %(operator)s WHERE id = %(id)s RETURNING id

-- name: lock_organizations_of_user
SELECT o.id FROM organization o WHERE o.id IN (
    SELECT organization_id FROM member WHERE user_id = %(id)s
    UNION SELECT organization_id FROM api_key WHERE user_id = %(id)s
    UNION SELECT organization_id FROM management_key WHERE user_id = %(id)s AND revoked_at IS NULL)
ORDER BY o.id FOR NO KEY UPDATE

-- name: disable_user
UPDATE console_user SET disabled_at = coalesce(disabled_at, farebox_now()), operator = false
WHERE id = %(id)s RETURNING id

-- name: end_sessions
DELETE FROM console_session WHERE user_id = %(id)s

-- name: revoke_keys
UPDATE api_key SET revoked_at = farebox_now()
WHERE user_id = %(user_id)s AND revoked_at IS NULL
  AND (%(organization_id)s::uuid IS NULL OR organization_id = %(organization_id)s)
RETURNING id

-- name: list_members
SELECT m.organization_id, o.name, m.user_id, u.email, m.role, m.created_at
FROM member m
JOIN organization o ON o.id = m.organization_id
JOIN console_user u ON u.id = m.user_id
WHERE (%(organization_id)s::uuid IS NULL OR m.organization_id = %(organization_id)s)
  AND (%(user_id)s::uuid IS NULL OR m.user_id = %(user_id)s)
  AND (%(after)s::uuid IS NULL OR m.user_id > %(after)s)
ORDER BY m.user_id, m.organization_id LIMIT %(limit)s

-- name: put_member
INSERT INTO member (organization_id, user_id, role)
VALUES (%(organization_id)s, %(user_id)s, %(role)s)
ON CONFLICT (organization_id, user_id) DO UPDATE SET role = excluded.role
RETURNING user_id

-- name: count_other_owners
SELECT count(*) FROM member m JOIN console_user u ON u.id = m.user_id
WHERE m.organization_id = %(organization_id)s AND m.role = 'owner' AND m.user_id <> %(user_id)s
  AND u.disabled_at IS NULL

-- name: delete_member
DELETE FROM member WHERE organization_id = %(organization_id)s AND user_id = %(user_id)s
RETURNING user_id

-- name: list_invitations
SELECT i.id, i.organization_id, o.name, i.email, i.role, i.invited_by, i.created_at, i.expires_at,
       i.accepted_at, i.user_id, i.revoked_at
FROM invitation i JOIN organization o ON o.id = i.organization_id
WHERE (%(id)s::uuid IS NULL OR i.id = %(id)s)
  AND (%(digest)s::bytea IS NULL OR i.digest = %(digest)s)
  AND (%(organization_id)s::uuid IS NULL OR i.organization_id = %(organization_id)s)
  AND (%(after)s::uuid IS NULL OR i.id > %(after)s)
ORDER BY i.id LIMIT %(limit)s

-- name: insert_invitation
INSERT INTO invitation (id, organization_id, email, role, digest, invited_by, expires_at)
VALUES (%(id)s, %(organization_id)s, %(email)s, %(role)s, %(digest)s, %(invited_by)s,
    %(expires_at)s)
RETURNING id

-- name: revoke_invitation
UPDATE invitation SET revoked_at = farebox_now()
WHERE id = %s AND revoked_at IS NULL AND accepted_at IS NULL AND expires_at > farebox_now()
RETURNING id

-- name: lock_organization_of_invitation
SELECT id FROM organization
WHERE id = (SELECT organization_id FROM invitation WHERE id = %s) FOR NO KEY UPDATE

-- name: accept_invitation
UPDATE invitation SET accepted_at = farebox_now(), user_id = %(user_id)s WHERE id = %(id)s
RETURNING id

-- name: read_sign_up
SELECT self_sign_up FROM deployment

-- name: write_sign_up
UPDATE deployment SET self_sign_up = %(allowed)s RETURNING self_sign_up
