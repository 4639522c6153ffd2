-- Stored requests and answers, each in the partition of the day on which it is dropped.

-- name: today
SELECT (farebox_now() AT TIME ZONE 'UTC')::date

-- name: make_day
SELECT farebox_make_content_day(%(day)s)

-- name: insert
INSERT INTO call_content (ends_on, call_id, organization_id, project_id, request, request_bytes,
    answer, answer_bytes, answer_type)
VALUES (%(ends_on)s, %(call_id)s, %(organization_id)s, %(project_id)s, %(request)s,
    %(request_bytes)s, %(answer)s, %(answer_bytes)s, %(answer_type)s)
ON CONFLICT DO NOTHING

-- name: find
SELECT call_id, organization_id, project_id, request, request_bytes, answer, answer_bytes,
    answer_type, stored_at, ends_on
FROM call_content
WHERE call_id = %(call_id)s AND ends_on > (farebox_now() AT TIME ZONE 'UTC')::date

-- name: forget
WITH picked AS (
    SELECT call_id, ends_on FROM call_content
    WHERE organization_id = %(organization_id)s
      AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
    LIMIT %(limit)s
)
DELETE FROM call_content c USING picked s WHERE c.call_id = s.call_id AND c.ends_on = s.ends_on
