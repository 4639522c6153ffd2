-- Sessions of the console, and what an organisation's page shows beside its balance.

-- name: ping
SELECT 1

-- name: open_session
-- By the real clock: who moves a sandbox's clock stays signed in.
WITH ended AS (DELETE FROM console_session WHERE expires_at <= clock_timestamp())
INSERT INTO console_session (digest, user_id, expires_at)
VALUES (%(digest)s, %(person_id)s, clock_timestamp() + %(lasts)s)

-- name: drop_oldest_sessions
DELETE FROM console_session WHERE digest IN (
    SELECT digest FROM console_session WHERE user_id = %(person_id)s
    ORDER BY created_at DESC, digest OFFSET %(kept)s)

-- name: find_session
SELECT u.id, u.email, s.expires_at
FROM console_session s JOIN console_user u ON u.id = s.user_id
WHERE s.digest = %s AND s.expires_at > clock_timestamp()

-- name: end_session
DELETE FROM console_session WHERE digest = %s

-- name: list_seen_organizations
-- All of an operator, a member's own; none of somebody whose login is closed.
SELECT o.id, o.name, u.operator, m.role
FROM console_user u
CROSS JOIN organization o
LEFT JOIN member m ON m.user_id = u.id AND m.organization_id = o.id
WHERE u.id = %(person_id)s AND u.disabled_at IS NULL AND (u.operator OR m.role IS NOT NULL)
  AND (%(id)s::uuid IS NULL OR o.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(o.name) = lower(%(name)s))
ORDER BY o.id LIMIT %(limit)s

-- name: read_page_facts
SELECT o.name, d.clock_offset FROM organization o, deployment d WHERE o.id = %s

-- name: read_open_holds
SELECT h.call_id, h.amount_nanos, h.model, h.endpoint, coalesce(p.name, ''), coalesce(k.name, ''),
       h.streamed, h.admitted_at, h.latest_end, count(*) OVER ()
FROM hold h
LEFT JOIN project p ON p.id = h.project_id
LEFT JOIN api_key k ON k.id = h.key_id
WHERE h.organization_id = %(organization_id)s
ORDER BY h.admitted_at, h.call_id LIMIT %(limit)s
