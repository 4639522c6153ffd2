-- Writes of the native API by the keys that their clients chose; all by the real clock.

-- name: begin
-- One row for one key: the first request makes it, or takes over an abandoned one of its own.
INSERT INTO api_request (caller, key, fingerprint, effect_id)
VALUES (%(caller)s, %(key)s, %(fingerprint)s, %(effect_id)s)
ON CONFLICT (caller, key) DO UPDATE SET taken_at = clock_timestamp()
WHERE api_request.status IS NULL AND api_request.fingerprint = excluded.fingerprint
  AND api_request.taken_at < clock_timestamp() - %(abandoned)s::interval
RETURNING effect_id

-- name: read
SELECT fingerprint, status, content_type, body FROM api_request
WHERE caller = %(caller)s AND key = %(key)s

-- name: finish
UPDATE api_request SET status = %(status)s, content_type = %(content_type)s, body = %(body)s
WHERE caller = %(caller)s AND key = %(key)s AND status IS NULL

-- name: abandon
DELETE FROM api_request WHERE caller = %(caller)s AND key = %(key)s AND status IS NULL

-- name: drop_old
DELETE FROM api_request WHERE (caller, key) IN (
    SELECT caller, key FROM api_request WHERE created_at < clock_timestamp() - %(kept)s::interval
    ORDER BY created_at LIMIT %(limit)s)
