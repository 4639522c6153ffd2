-- Alerts beyond thresholds: who is looked at, what is looked at, what was told.

-- name: active
-- One row of each organisation and of its last look; nothing else of those that are idle.
SELECT o.id, o.zone, o.sequence, l.looked_at, l.limits_at, s.settings::text
FROM organization o
LEFT JOIN anomaly_look l ON l.organization_id = o.id
LEFT JOIN alert_setting s ON s.organization_id = o.id
WHERE o.sequence > coalesce(l.sequence, 0)
  AND (%(after)s::uuid IS NULL OR o.id > %(after)s)
ORDER BY o.id LIMIT %(limit)s

-- name: looked
INSERT INTO anomaly_look AS l (organization_id, sequence, looked_at, limits_at)
VALUES (%(organization_id)s, %(sequence)s, %(at)s, %(limits_at)s)
ON CONFLICT (organization_id) DO UPDATE SET
    sequence = greatest(l.sequence, excluded.sequence), looked_at = excluded.looked_at,
    limits_at = excluded.limits_at
RETURNING organization_id

-- name: told
SELECT a.kind, a.subject, a.period_start
FROM unnest(%(kinds)s::text[], %(subjects)s::text[], %(periods)s::timestamptz[])
    AS t (kind, subject, period_start)
JOIN anomaly a ON a.organization_id = %(organization_id)s AND a.kind = t.kind
    AND a.subject = t.subject AND a.period_start = t.period_start

-- name: tell
-- Once, whoever finds it; word is left where a row was made.
WITH new AS (
    INSERT INTO anomaly (organization_id, kind, subject, period_start, at, facts, action)
    SELECT %(organization_id)s, t.kind, t.subject, t.period_start, farebox_now(), t.facts::json,
        %(action)s
    FROM unnest(%(kinds)s::text[], %(subjects)s::text[], %(periods)s::timestamptz[],
                %(facts)s::text[]) AS t (kind, subject, period_start, facts)
    ON CONFLICT (organization_id, kind, subject, period_start) DO NOTHING
    RETURNING id, organization_id, kind, subject, period_start, at, facts
), word AS (
    INSERT INTO outbox (organization_id, kind, at, facts)
    SELECT organization_id, kind, at, facts::jsonb || jsonb_build_object('anomaly_id', id::text)
    FROM new ORDER BY id
)
SELECT id, kind, subject, period_start FROM new

-- name: tell_operators
-- Once an hour and account, whichever gateway comes first; no organisation's row is touched.
WITH new AS (
    INSERT INTO anomaly (organization_id, kind, subject, period_start, at, facts, action)
    SELECT NULL, %(kind)s, 'account:' || replace(a.id::text, '-', ''),
        date_trunc('hour', farebox_now(), 'UTC'), farebox_now(),
        (t.facts::jsonb || jsonb_build_object('account', a.name))::json, 'told'
    FROM unnest(%(accounts)s::uuid[], %(facts)s::text[]) AS t (account_id, facts)
    JOIN upstream_account a ON a.id = t.account_id
    ORDER BY a.id
    ON CONFLICT (organization_id, kind, subject, period_start) DO NOTHING
    RETURNING id, kind, at, facts
), word AS (
    INSERT INTO outbox (organization_id, kind, at, facts)
    SELECT NULL, kind, at, facts::jsonb || jsonb_build_object('anomaly_id', id::text)
    FROM new ORDER BY id
)
SELECT id FROM new

-- name: spent
SELECT project_id, key_id, coalesce(sum(charge_nanos) FILTER (WHERE hour = %(hour)s), 0)::bigint,
    coalesce(sum(charge_nanos) FILTER (WHERE hour >= %(day)s), 0)::bigint,
    coalesce(sum(calls) FILTER (WHERE hour >= %(day)s), 0)::bigint
FROM rollup_hour
WHERE organization_id = %(organization_id)s
  AND hour >= least(%(hour)s::timestamptz, %(day)s::timestamptz) AND hour <= %(hour)s
GROUP BY GROUPING SETS ((), (project_id), (project_id, key_id))
HAVING coalesce(sum(charge_nanos) FILTER (WHERE hour = %(hour)s), 0) >= %(minimum)s
    OR coalesce(sum(charge_nanos) FILTER (WHERE hour >= %(day)s), 0) >= %(minimum)s
ORDER BY 4 DESC, 1 NULLS FIRST, 2 NULLS FIRST LIMIT %(limit)s

-- name: histories
-- Of the organisation, and of projects and keys that are named: one pass over its rollups.
WITH by_hour AS (
    SELECT project_id, key_id, hour, sum(charge_nanos)::bigint AS spent
    FROM rollup_hour
    WHERE organization_id = %(organization_id)s AND hour >= %(since)s AND hour < %(hour)s
    GROUP BY GROUPING SETS ((hour), (hour, project_id), (hour, project_id, key_id))
)
SELECT project_id, key_id, array_agg(hour), array_agg(spent) FROM by_hour
WHERE spent > 0 AND (project_id IS NULL
    OR key_id IS NULL AND project_id = ANY(%(projects)s::uuid[])
    OR key_id = ANY(%(keys)s::uuid[]))
GROUP BY project_id, key_id

-- name: newest_calls
-- By id, backwards: as many as the limit and no more are read, whatever they are.
SELECT run_ref, id, admitted_at, input_tokens, output_tokens
FROM (
    SELECT id, run_ref, admitted_at, input_tokens, output_tokens FROM call
    WHERE organization_id = %(organization_id)s ORDER BY id DESC LIMIT %(limit)s
) AS c
WHERE run_ref <> '' AND input_tokens > 0
ORDER BY admitted_at, id

-- name: scope_page
SELECT organization_id, kind, ref, rules::text, windows, number
FROM scope_limit
WHERE organization_id = %(organization_id)s AND NOT (everywhere AND ref = '')
  AND (%(after)s::bigint IS NULL OR number > %(after)s)
ORDER BY number LIMIT %(limit)s

-- name: scope_defaults
SELECT organization_id, kind, ref, rules::text, windows
FROM scope_limit WHERE organization_id = %(organization_id)s AND everywhere AND ref = ''

-- name: recent_use
-- In the measure of a limit, by the scopes that rollups know.
SELECT min(hour), coalesce(sum(CASE %(measure)s::text WHEN 'money' THEN charge_nanos
        WHEN 'tokens' THEN input_tokens + output_tokens ELSE calls END)
    FILTER (WHERE hour >= %(recent)s), 0)::bigint
FROM rollup_hour
WHERE organization_id = %(organization_id)s AND hour >= %(since)s AND calls > 0
  AND CASE %(kind)s::text WHEN 'project' THEN project_id::text = %(ref)s::text
      WHEN 'key' THEN key_id::text = %(ref)s::text WHEN 'feature' THEN feature = %(ref)s::text
      WHEN 'environment' THEN environment = %(ref)s::text ELSE true END
  AND (%(model)s::text IN ('', model) AND starts_with(model, %(prefix)s::text))

-- name: frequent_users
SELECT u.organization_id, s.settings::text, u.user_ref, u.calls
FROM user_hour u LEFT JOIN alert_setting s ON s.organization_id = u.organization_id
WHERE u.hour = %(hour)s AND u.calls >= %(minimum)s
  AND NOT EXISTS (SELECT FROM anomaly a WHERE a.organization_id = u.organization_id
      AND a.kind = 'frequent_user' AND a.subject = 'user:' || u.user_ref
      AND a.period_start = u.hour)
ORDER BY u.calls DESC, u.organization_id, u.user_ref LIMIT %(limit)s

-- name: user_hours
-- The newest of the week before, this user's and everybody else's.
(SELECT true, calls FROM user_hour
 WHERE organization_id = %(organization_id)s AND hour >= %(since)s AND hour < %(hour)s
   AND user_ref = %(user)s ORDER BY hour DESC LIMIT %(limit)s)
UNION ALL
(SELECT false, calls FROM user_hour
 WHERE organization_id = %(organization_id)s AND hour >= %(since)s AND hour < %(hour)s
   AND user_ref <> %(user)s ORDER BY hour DESC LIMIT %(limit)s)

-- name: repeats
SELECT r.organization_id, s.settings::text, r.minute, r.project_id, r.key_id, r.run_ref, r.model,
    r.watched, r.calls
FROM repeated_request r LEFT JOIN alert_setting s ON s.organization_id = r.organization_id
WHERE r.minute >= %(since)s AND r.calls >= %(minimum)s
  AND NOT EXISTS (SELECT FROM anomaly a WHERE a.organization_id = r.organization_id
      AND a.kind = 'repeated_requests'
      AND a.subject = CASE WHEN r.run_ref <> '' THEN 'run:' || r.run_ref
          ELSE 'key:' || replace(r.key_id::text, '-', '') END
      AND a.period_start = date_trunc('hour', r.minute, 'UTC'))
ORDER BY r.calls DESC, r.minute, r.organization_id, r.watched LIMIT %(limit)s

-- name: note_repeats
-- The minute is the database's; every gateway adds what it saw.
INSERT INTO repeated_request AS r (minute, organization_id, watched, project_id, key_id, run_ref,
    model, calls)
SELECT date_trunc('minute', farebox_now(), 'UTC'), t.organization_id, decode(t.watched, 'hex'),
    t.project_id, t.key_id, t.run_ref, t.model, t.calls
FROM unnest(%(organizations)s::uuid[], %(watched)s::text[], %(projects)s::uuid[],
            %(keys)s::uuid[], %(runs)s::text[], %(models)s::text[], %(calls)s::bigint[])
    AS t (organization_id, watched, project_id, key_id, run_ref, model, calls)
ON CONFLICT (minute, organization_id, watched) DO UPDATE SET calls = r.calls + excluded.calls

-- name: note_users
INSERT INTO user_hour AS u (organization_id, hour, user_ref, calls)
SELECT t.organization_id, date_trunc('hour', farebox_now(), 'UTC'), t.user_ref, t.calls
FROM unnest(%(organizations)s::uuid[], %(users)s::text[], %(calls)s::bigint[])
    AS t (organization_id, user_ref, calls)
ON CONFLICT (organization_id, hour, user_ref) DO UPDATE SET calls = u.calls + excluded.calls

-- name: stops_left
SELECT id, organization_id, facts::text FROM anomaly
WHERE action = 'stopping' AND at < %(before)s ORDER BY id LIMIT %(limit)s

-- name: stopped
UPDATE anomaly SET action = 'stopped', acted_at = farebox_now()
WHERE id = %(id)s AND action = 'stopping' RETURNING id

-- name: forget_repeats
DELETE FROM repeated_request WHERE minute < %(before)s

-- name: forget_users
DELETE FROM user_hour WHERE hour < %(before)s

-- name: read_settings
SELECT settings::text FROM alert_setting WHERE organization_id = %(organization_id)s

-- name: put_settings
INSERT INTO alert_setting (organization_id, settings)
VALUES (%(organization_id)s, %(settings)s::json)
ON CONFLICT (organization_id) DO UPDATE SET settings = excluded.settings
RETURNING organization_id

-- name: alerts
SELECT o.id, o.kind, o.at, o.facts::text, coalesce(a.action, 'told')
FROM outbox o
LEFT JOIN anomaly a ON a.id = (o.facts ->> 'anomaly_id')::bigint
WHERE o.organization_id = %(organization_id)s AND o.kind = ANY(%(kinds)s)
  AND (%(before)s::bigint IS NULL OR o.id < %(before)s)
ORDER BY o.id DESC LIMIT %(limit)s

-- name: operator_alerts
SELECT o.id, o.kind, o.at, o.facts::text, coalesce(a.action, 'told')
FROM outbox o
LEFT JOIN anomaly a ON a.id = (o.facts ->> 'anomaly_id')::bigint
WHERE o.organization_id IS NULL AND o.kind = ANY(%(kinds)s)
  AND (%(before)s::bigint IS NULL OR o.id < %(before)s)
  AND (%(since)s::timestamptz IS NULL OR o.at > %(since)s)
ORDER BY o.id DESC LIMIT %(limit)s
