-- Usage summed by any dimension, calls narrowed, how calls went, and runs.

-- name: by_rollup
-- A dimension that is not asked for is NULL everywhere, so that grouping by all groups by the rest.
-- Every row says what all groups together come to, besides its own: one look at the rollup. Whole
-- days that are summed (migration 0010) are read as such, and of every other day its hours.
WITH summed AS MATERIALIZED (
    SELECT day FROM summed_day
    WHERE organization_id = %(organization_id)s AND is_summed AND %(whole_days)s
      AND day >= %(since)s AND day <= %(until)s::timestamptz - interval '24 hours'
), by_hour AS MATERIALIZED (
    SELECT greatest(day, %(since)s) AS low, least(day + interval '24 hours', %(until)s) AS high
    FROM generate_series(date_trunc('day', %(since)s::timestamptz, 'UTC'), %(until)s,
        interval '24 hours') AS d (day)
    WHERE NOT EXISTS (SELECT FROM summed s WHERE s.day = d.day)
), parts AS NOT MATERIALIZED (
    SELECT day AS hour, project_id, key_id, feature, environment, model, endpoint, calls,
        charge_nanos, absorbed_nanos, cost_nanos, input_tokens, cached_tokens, cache_write_tokens,
        output_tokens, reasoning_tokens
    FROM summed JOIN rollup_day USING (day)
    WHERE organization_id = %(organization_id)s AND day >= %(since)s AND day < %(until)s
    UNION ALL
    SELECT hour, project_id, key_id, feature, environment, model, endpoint, calls, charge_nanos,
        absorbed_nanos, cost_nanos, input_tokens, cached_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens
    FROM by_hour JOIN rollup_hour ON hour >= low AND hour < high
    WHERE organization_id = %(organization_id)s
), grouped AS MATERIALIZED (
    SELECT CASE %(bucket)s::text WHEN 'hour' THEN hour
            WHEN 'day' THEN date_trunc('day', hour, %(zone)s::text) END AS at,
        CASE WHEN %(by_project)s THEN project_id END AS project_id,
        CASE WHEN %(by_key)s THEN key_id END AS key_id,
        CASE WHEN %(by_feature)s THEN feature END AS feature,
        CASE WHEN %(by_environment)s THEN environment END AS environment,
        CASE WHEN %(by_model)s THEN model END AS model,
        CASE WHEN %(by_endpoint)s THEN endpoint END AS endpoint,
        sum(calls)::bigint AS calls, sum(charge_nanos)::bigint AS charge,
        sum(absorbed_nanos)::bigint AS absorbed, sum(cost_nanos)::bigint AS cost,
        sum(input_tokens)::bigint AS input, sum(cached_tokens)::bigint AS cached,
        sum(cache_write_tokens)::bigint AS cache_write, sum(output_tokens)::bigint AS output,
        sum(reasoning_tokens)::bigint AS reasoning,
        coalesce(sum(calls) FILTER (WHERE feature = ''), 0)::bigint AS no_feature_calls,
        coalesce(sum(charge_nanos) FILTER (WHERE feature = ''), 0)::bigint AS no_feature_charge,
        coalesce(sum(calls) FILTER (WHERE environment = ''), 0)::bigint AS no_environment_calls,
        coalesce(sum(charge_nanos) FILTER (WHERE environment = ''), 0)::bigint
            AS no_environment_charge
    FROM parts
    WHERE (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
      AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
      AND (%(model)s::text IS NULL OR model = %(model)s)
      AND (%(feature)s::text IS NULL OR feature = %(feature)s)
      AND (%(environment)s::text IS NULL OR environment = %(environment)s)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), whole AS (
    SELECT coalesce(sum(calls), 0)::bigint AS calls, coalesce(sum(charge), 0)::bigint AS charge,
        coalesce(sum(absorbed), 0)::bigint AS absorbed, coalesce(sum(cost), 0)::bigint AS cost,
        coalesce(sum(input), 0)::bigint AS input, coalesce(sum(cached), 0)::bigint AS cached,
        coalesce(sum(cache_write), 0)::bigint AS cache_write,
        coalesce(sum(output), 0)::bigint AS output,
        coalesce(sum(reasoning), 0)::bigint AS reasoning,
        coalesce(sum(no_feature_calls), 0)::bigint AS no_feature_calls,
        coalesce(sum(no_feature_charge), 0)::bigint AS no_feature_charge,
        coalesce(sum(no_environment_calls), 0)::bigint AS no_environment_calls,
        coalesce(sum(no_environment_charge), 0)::bigint AS no_environment_charge
    FROM grouped
), page AS (
    SELECT * FROM grouped
    ORDER BY at DESC NULLS LAST, charge DESC, project_id, key_id, feature, environment, model,
        endpoint
    LIMIT %(limit)s OFFSET %(offset)s
)
SELECT g.at, g.project_id, p.name, g.key_id, k.name, g.feature, g.environment, g.model, g.endpoint,
    NULL::text, NULL::text, NULL::text, g.calls, g.charge, g.absorbed, g.cost, g.input, g.cached,
    g.cache_write, g.output, g.reasoning, w.*
FROM whole w
LEFT JOIN page g ON true
LEFT JOIN project p ON p.id = g.project_id
LEFT JOIN api_key k ON k.id = g.key_id
ORDER BY g.at DESC NULLS LAST, g.charge DESC, g.project_id, g.key_id, g.feature, g.environment,
    g.model, g.endpoint

-- name: by_call
-- The same over closed calls, for what rollups do not know. An id's time is a moment before its
-- admission's, so the ids are looked for in a day more on each side.
WITH grouped AS MATERIALIZED (
    SELECT CASE %(bucket)s::text WHEN 'hour' THEN date_trunc('hour', admitted_at, 'UTC')
            WHEN 'day' THEN date_trunc('day', date_trunc('hour', admitted_at, 'UTC'),
                %(zone)s::text) END AS at,
        CASE WHEN %(by_project)s THEN project_id END AS project_id,
        CASE WHEN %(by_key)s THEN key_id END AS key_id,
        CASE WHEN %(by_feature)s THEN feature END AS feature,
        CASE WHEN %(by_environment)s THEN environment END AS environment,
        CASE WHEN %(by_model)s THEN model END AS model,
        CASE WHEN %(by_endpoint)s THEN endpoint END AS endpoint,
        CASE WHEN %(by_user)s THEN user_ref END AS user_ref,
        CASE WHEN %(by_run)s THEN run_ref END AS run_ref,
        CASE WHEN %(by_tag)s THEN coalesce(tags ->> %(tag)s::text, '') END AS tag,
        sum(1)::bigint AS calls, sum(charge_nanos)::bigint AS charge,
        sum(absorbed_nanos)::bigint AS absorbed, sum(cost_nanos)::bigint AS cost,
        sum(input_tokens)::bigint AS input, sum(cached_tokens)::bigint AS cached,
        sum(cache_write_tokens)::bigint AS cache_write, sum(output_tokens)::bigint AS output,
        sum(reasoning_tokens)::bigint AS reasoning,
        coalesce(sum(1) FILTER (WHERE feature = ''), 0)::bigint AS no_feature_calls,
        coalesce(sum(charge_nanos) FILTER (WHERE feature = ''), 0)::bigint AS no_feature_charge,
        coalesce(sum(1) FILTER (WHERE environment = ''), 0)::bigint AS no_environment_calls,
        coalesce(sum(charge_nanos) FILTER (WHERE environment = ''), 0)::bigint
            AS no_environment_charge
    FROM call
    WHERE organization_id = %(organization_id)s
      AND id >= farebox_uuid_floor(%(since)s::timestamptz - interval '1 day')
      AND id < farebox_uuid_floor(%(until)s::timestamptz + interval '1 day')
      AND admitted_at >= %(since)s AND admitted_at < %(until)s
      AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
      AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
      AND (%(model)s::text IS NULL OR model = %(model)s)
      AND (%(feature)s::text IS NULL OR feature = %(feature)s)
      AND (%(environment)s::text IS NULL OR environment = %(environment)s)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
), whole AS (
    SELECT coalesce(sum(calls), 0)::bigint AS calls, coalesce(sum(charge), 0)::bigint AS charge,
        coalesce(sum(absorbed), 0)::bigint AS absorbed, coalesce(sum(cost), 0)::bigint AS cost,
        coalesce(sum(input), 0)::bigint AS input, coalesce(sum(cached), 0)::bigint AS cached,
        coalesce(sum(cache_write), 0)::bigint AS cache_write,
        coalesce(sum(output), 0)::bigint AS output,
        coalesce(sum(reasoning), 0)::bigint AS reasoning,
        coalesce(sum(no_feature_calls), 0)::bigint AS no_feature_calls,
        coalesce(sum(no_feature_charge), 0)::bigint AS no_feature_charge,
        coalesce(sum(no_environment_calls), 0)::bigint AS no_environment_calls,
        coalesce(sum(no_environment_charge), 0)::bigint AS no_environment_charge
    FROM grouped
), page AS (
    SELECT * FROM grouped
    ORDER BY at DESC NULLS LAST, charge DESC, project_id, key_id, feature, environment, model,
        endpoint, user_ref, run_ref, tag
    LIMIT %(limit)s OFFSET %(offset)s
)
SELECT g.at, g.project_id, p.name, g.key_id, k.name, g.feature, g.environment, g.model, g.endpoint,
    g.user_ref, g.run_ref, g.tag, g.calls, g.charge, g.absorbed, g.cost, g.input, g.cached,
    g.cache_write, g.output, g.reasoning, w.*
FROM whole w
LEFT JOIN page g ON true
LEFT JOIN project p ON p.id = g.project_id
LEFT JOIN api_key k ON k.id = g.key_id
ORDER BY g.at DESC NULLS LAST, g.charge DESC, g.project_id, g.key_id, g.feature, g.environment,
    g.model, g.endpoint, g.user_ref, g.run_ref, g.tag

-- name: newest
-- The call that closed last of those admitted last: everything before it is in the sums.
SELECT ended_at FROM call WHERE organization_id = %(organization_id)s ORDER BY id DESC LIMIT 1

-- name: quality
-- How calls went, by project, model and key: failed, tried again, refused; of all, by group.
WITH closed AS (
    SELECT CASE WHEN %(by_project)s THEN project_id END AS project_id,
        CASE WHEN %(by_model)s THEN model END AS model,
        CASE WHEN %(by_key)s THEN key_id END AS key_id,
        count(*) AS calls,
        count(*) FILTER (WHERE state <> 'settled' AND state <> 'late'
            OR http_status NOT BETWEEN 200 AND 299) AS failed,
        count(*) FILTER (WHERE retry_count > 0) AS retries, 0::bigint AS refused,
        sum(charge_nanos) FILTER (WHERE retry_count > 0) AS retry_charge,
        sum(latency_ms) AS latency, sum(input_tokens) AS input, sum(output_tokens) AS output
    FROM call
    WHERE organization_id = %(organization_id)s
      AND id >= farebox_uuid_floor(%(since)s::timestamptz - interval '1 day')
      AND id < farebox_uuid_floor(%(until)s::timestamptz + interval '1 day')
      AND admitted_at >= %(since)s AND admitted_at < %(until)s
    GROUP BY 1, 2, 3
), turned_away AS (
    SELECT CASE WHEN %(by_project)s THEN project_id END, CASE WHEN %(by_model)s THEN model END,
        CASE WHEN %(by_key)s THEN key_id END, 0, 0, 0, sum(times), 0, 0, 0, 0
    FROM refusal
    WHERE organization_id = %(organization_id)s
      AND id >= farebox_uuid_floor(%(since)s::timestamptz - interval '1 day')
      AND id < farebox_uuid_floor(%(until)s::timestamptz + interval '1 day')
      AND refused_at >= %(since)s AND refused_at < %(until)s
    GROUP BY 1, 2, 3
), grouped AS (
    SELECT project_id, model, key_id, sum(calls)::bigint AS calls, sum(failed)::bigint AS failed,
        sum(retries)::bigint AS retries, sum(refused)::bigint AS refused,
        coalesce(sum(retry_charge), 0)::bigint AS retry_charge,
        coalesce(sum(latency), 0)::bigint AS latency, coalesce(sum(input), 0)::bigint AS input,
        coalesce(sum(output), 0)::bigint AS output
    FROM (SELECT * FROM closed UNION ALL SELECT * FROM turned_away) AS rows
    GROUP BY 1, 2, 3
    ORDER BY sum(calls + refused) DESC, 1, 2, 3 LIMIT %(limit)s OFFSET %(offset)s
)
SELECT g.project_id, p.name, g.model, g.key_id, k.name, g.calls, g.failed, g.retries, g.refused,
    g.retry_charge, g.latency, g.input, g.output
FROM grouped g
LEFT JOIN project p ON p.id = g.project_id
LEFT JOIN api_key k ON k.id = g.key_id
ORDER BY g.calls + g.refused DESC, g.project_id, g.model, g.key_id

-- name: calls
-- As calls.sql's page, narrowed: each of the three is read backwards from the cursor, then merged.
-- Closed calls, or the other two, can be left out.
WITH merged AS (
    (SELECT id, 0 AS turn, state::text AS status, charge_nanos, absorbed_nanos, held_nanos,
        estimated, model, lane, endpoint, project_id, key_id, user_ref, feature, environment,
        run_ref, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        admitted_at AS at, ended_at, latency_ms, http_status, reason, 1::bigint AS times
     FROM call
     WHERE %(closed)s AND organization_id = %(organization_id)s AND id <= %(id)s
       AND (id < %(id)s OR 0 > %(turn)s) AND id >= %(low)s AND id < %(high)s
       AND (%(status)s::text IS NULL OR state = %(status)s)
       AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
       AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
       AND (%(model)s::text IS NULL OR model = %(model)s)
       AND (%(feature)s::text IS NULL OR feature = %(feature)s)
       AND (%(user)s::text IS NULL OR user_ref = %(user)s)
       AND (%(run)s::text IS NULL OR run_ref = %(run)s)
     ORDER BY id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT call_id, 1, 'open', 0, 0, amount_nanos, false, model, lane, endpoint, project_id,
        key_id, user_ref, feature, environment, run_ref, coalesce(progress[3], 0), 0, 0,
        coalesce(progress[4], 0), 0, admitted_at, NULL, NULL, NULL, '', 1
     FROM hold
     WHERE %(others)s AND organization_id = %(organization_id)s AND call_id <= %(id)s
       AND (call_id < %(id)s OR 1 > %(turn)s) AND call_id >= %(low)s AND call_id < %(high)s
       AND (%(status)s::text IS NULL OR %(status)s = 'open')
       AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
       AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
       AND (%(model)s::text IS NULL OR model = %(model)s)
       AND (%(feature)s::text IS NULL OR feature = %(feature)s)
       AND (%(user)s::text IS NULL OR user_ref = %(user)s)
       AND (%(run)s::text IS NULL OR run_ref = %(run)s)
     ORDER BY call_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT id, 2, 'refused', 0, 0, needed_nanos, false, model, '', endpoint, project_id, key_id,
        user_ref, feature, '', '', 0, 0, 0, 0, 0, refused_at, NULL, NULL, NULL, code, times
     FROM refusal
     WHERE %(others)s AND organization_id = %(organization_id)s AND id <= %(id)s
       AND (id < %(id)s OR 2 > %(turn)s) AND id >= %(low)s AND id < %(high)s
       AND (%(status)s::text IS NULL OR %(status)s = 'refused')
       AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
       AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
       AND (%(model)s::text IS NULL OR model = %(model)s)
       AND (%(feature)s::text IS NULL OR feature = %(feature)s)
       AND (%(user)s::text IS NULL OR user_ref = %(user)s)
       AND %(run)s::text IS NULL
     ORDER BY id DESC LIMIT %(limit)s)
    ORDER BY id DESC, turn LIMIT %(limit)s
)
SELECT m.id, m.turn, m.status, m.charge_nanos, m.absorbed_nanos, m.held_nanos, m.estimated,
    m.model, m.lane, m.endpoint, m.project_id, p.name, m.key_id, k.name, m.user_ref, m.feature,
    m.environment, m.run_ref, m.input_tokens, m.cached_tokens, m.cache_write_tokens,
    m.output_tokens, m.reasoning_tokens, m.at, m.ended_at, m.latency_ms, m.http_status, m.reason,
    m.times
FROM merged m
LEFT JOIN project p ON p.id = m.project_id
LEFT JOIN api_key k ON k.id = m.key_id
ORDER BY m.id DESC, m.turn

-- name: near
-- How far back a list is simply read.
SELECT id FROM call WHERE organization_id = %(organization_id)s AND id <= %(id)s AND id < %(high)s
ORDER BY id DESC LIMIT 1 OFFSET %(calls)s

-- name: spans
-- When there was usage that a list is narrowed to, the latest first, by the days of the rollups. As
-- above ids are looked for in a day more on each side.
WITH summed AS MATERIALIZED (
    SELECT day FROM summed_day WHERE organization_id = %(organization_id)s AND is_summed
), used AS (
    SELECT day FROM summed JOIN rollup_day USING (day)
    WHERE organization_id = %(organization_id)s AND day <= %(until)s
      AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
      AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
      AND (%(model)s::text IS NULL OR model = %(model)s)
      AND (%(feature)s::text IS NULL OR feature = %(feature)s)
    UNION
    SELECT day FROM generate_series((SELECT date_trunc('day', min(hour), 'UTC') FROM rollup_hour
        WHERE organization_id = %(organization_id)s), %(until)s, interval '24 hours') AS d (day)
    CROSS JOIN LATERAL (
        SELECT FROM rollup_hour WHERE organization_id = %(organization_id)s
          AND hour >= day AND hour < day + interval '24 hours'
          AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
          AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
          AND (%(model)s::text IS NULL OR model = %(model)s)
          AND (%(feature)s::text IS NULL OR feature = %(feature)s)
        LIMIT 1) AS first
    WHERE NOT EXISTS (SELECT FROM summed s WHERE s.day = d.day)
)
SELECT lower(span), upper(span)
FROM (SELECT range_agg(tstzrange(day - interval '24 hours', day + interval '48 hours')) AS spans
      FROM used) AS u, unnest(u.spans) AS span
ORDER BY 1 DESC

-- name: runs
SELECT run_ref, count(*), sum(charge_nanos)::bigint, sum(input_tokens)::bigint,
    sum(output_tokens)::bigint, min(admitted_at), max(ended_at),
    (array_agg(id ORDER BY id DESC))[1] AS last_id
FROM call
WHERE organization_id = %(organization_id)s AND id >= farebox_uuid_floor(%(since)s)
  AND run_ref <> '' AND (%(run)s::text IS NULL OR run_ref = %(run)s)
GROUP BY run_ref
HAVING %(before)s::uuid IS NULL OR (array_agg(id ORDER BY id DESC))[1] < %(before)s
ORDER BY last_id DESC LIMIT %(limit)s
