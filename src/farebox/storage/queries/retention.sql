-- Months that are past retention: looked at, sealed, added up, dropped. And content by its day.
-- low and high are the smallest ids of the month and of the next one: only its partition is read.

-- name: settings
SELECT call_months, refusal_months FROM retention

-- name: change_settings
UPDATE retention SET call_months = %(call_months)s, refusal_months = %(refusal_months)s

-- name: months
-- Every partition by month; rows as the server last estimated them.
SELECT p.relname::text, to_date(right(c.relname, 7), 'YYYY_MM'), greatest(c.reltuples, 0)::bigint,
    pg_total_relation_size(c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE i.inhparent IN ('call'::regclass, 'refusal'::regclass) AND c.relname !~ '_default$'
ORDER BY 2, 1

-- name: strays
-- Months of rows that came when their month had no partition: their clocks ran far behind or ahead.
SELECT DISTINCT parent, date_trunc('month', to_timestamp(
    ('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0), 'UTC')
FROM (SELECT 'call' AS parent, id FROM call_default
      UNION ALL SELECT 'refusal', id FROM refusal_default) AS rows
ORDER BY 1, 2 LIMIT %(limit)s

-- name: make_month
SELECT farebox_make_partitions(%(month)s, 1)

-- name: dropped
SELECT parent, month, records, charge_nanos, dropped_at FROM dropped_month
ORDER BY month DESC, parent LIMIT %(limit)s

-- name: reasons_to_keep
SELECT (SELECT count(*) FROM hold WHERE call_id >= farebox_uuid_floor(%(start)s)
            AND call_id < farebox_uuid_floor(%(end)s)),
    (SELECT max(ended_at) FROM call WHERE id >= farebox_uuid_floor(%(start)s)
            AND id < farebox_uuid_floor(%(end)s)),
    farebox_now()

-- name: bound_locks
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)

-- name: bound_work
-- Between tries the transaction is idle for a second, which the server allows nobody else for long.
SELECT set_config('statement_timeout', '8min', true), set_config('work_mem', '128MB', true),
    set_config('idle_in_transaction_session_timeout', '20s', true)

-- name: seal_month
SELECT farebox_seal_month(%(parent)s, %(month)s)

-- name: drop_month
SELECT farebox_drop_month(%(parent)s, %(month)s)

-- name: note_calls
INSERT INTO dropped_month (parent, month, records, charge_nanos)
SELECT 'call', %(month)s, count(*), coalesce(sum(charge_nanos), 0)::bigint
FROM call WHERE id >= farebox_uuid_floor(%(start)s) AND id < farebox_uuid_floor(%(end)s)
ON CONFLICT (parent, month) DO UPDATE SET records = dropped_month.records + excluded.records,
    charge_nanos = dropped_month.charge_nanos + excluded.charge_nanos,
    dropped_at = excluded.dropped_at
RETURNING records, charge_nanos

-- name: note_refusals
INSERT INTO dropped_month (parent, month, records, charge_nanos)
SELECT 'refusal', %(month)s, coalesce(sum(times), 0)::bigint, 0
FROM refusal WHERE id >= farebox_uuid_floor(%(start)s) AND id < farebox_uuid_floor(%(end)s)
ON CONFLICT (parent, month) DO UPDATE SET records = dropped_month.records + excluded.records,
    dropped_at = excluded.dropped_at
RETURNING records, charge_nanos

-- name: keep_sums
INSERT INTO dropped_calls (organization_id, calls, charge_nanos, absorbed_nanos, owed_nanos,
    cost_nanos, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    sequence_max, first_hour, last_hour)
SELECT organization_id, count(*), sum(charge_nanos), sum(absorbed_nanos), sum(owed_nanos),
    sum(cost_nanos), sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens),
    sum(output_tokens), sum(reasoning_tokens), max(sequence),
    date_trunc('hour', min(admitted_at), 'UTC'), date_trunc('hour', max(admitted_at), 'UTC')
FROM call WHERE id >= farebox_uuid_floor(%(start)s) AND id < farebox_uuid_floor(%(end)s)
GROUP BY organization_id
ON CONFLICT (organization_id) DO UPDATE SET
    calls = dropped_calls.calls + excluded.calls,
    charge_nanos = dropped_calls.charge_nanos + excluded.charge_nanos,
    absorbed_nanos = dropped_calls.absorbed_nanos + excluded.absorbed_nanos,
    owed_nanos = dropped_calls.owed_nanos + excluded.owed_nanos,
    cost_nanos = dropped_calls.cost_nanos + excluded.cost_nanos,
    input_tokens = dropped_calls.input_tokens + excluded.input_tokens,
    cached_tokens = dropped_calls.cached_tokens + excluded.cached_tokens,
    cache_write_tokens = dropped_calls.cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = dropped_calls.output_tokens + excluded.output_tokens,
    reasoning_tokens = dropped_calls.reasoning_tokens + excluded.reasoning_tokens,
    sequence_max = greatest(dropped_calls.sequence_max, excluded.sequence_max),
    first_hour = least(dropped_calls.first_hour, excluded.first_hour),
    last_hour = greatest(dropped_calls.last_hour, excluded.last_hour)

-- name: keep_draws
INSERT INTO dropped_draw (organization_id, grant_id, nanos)
SELECT c.organization_id, d.grant_id, sum(d.nanos)
FROM call c, unnest(c.draw_grants, c.draw_nanos) AS d (grant_id, nanos)
WHERE c.id >= farebox_uuid_floor(%(start)s) AND c.id < farebox_uuid_floor(%(end)s)
GROUP BY 1, 2
ON CONFLICT (organization_id, grant_id) DO UPDATE SET nanos = dropped_draw.nanos + excluded.nanos

-- name: keep_named
-- The calls that postings of their own name: late changes, money given back to ended grants.
INSERT INTO dropped_call (id, organization_id, state, late_charge_nanos, late_absorbed_nanos)
SELECT id, organization_id, state, late_charge_nanos, late_absorbed_nanos FROM call c
WHERE c.id >= farebox_uuid_floor(%(start)s) AND c.id < farebox_uuid_floor(%(end)s)
  AND EXISTS (SELECT FROM posting p WHERE p.call_id = c.id)

-- name: keep_parts
-- A call belongs to the posting that begins last at or before its sequence. One whose calls are all
-- of this month, each number and each nanodollar, needs no part: it goes as a whole.
WITH late AS (
    SELECT p.call_id, sum(e.nanos) AS owed
    FROM posting p, unnest(p.accounts, p.amounts_nanos) AS e (account, nanos)
    WHERE p.kind = 'late' AND p.grant_id IS NULL AND e.account = 'receivable'
      AND p.call_id >= farebox_uuid_floor(%(start)s) AND p.call_id < farebox_uuid_floor(%(end)s)
    GROUP BY p.call_id
), monthly AS MATERIALIZED (
    SELECT c.organization_id, c.sequence, c.charge_nanos - c.late_charge_nanos AS charge,
        c.absorbed_nanos - c.late_absorbed_nanos AS absorbed,
        c.owed_nanos - coalesce(l.owed, 0) AS owed
    FROM call c LEFT JOIN late l ON l.call_id = c.id
    WHERE c.id >= farebox_uuid_floor(%(start)s) AND c.id < farebox_uuid_floor(%(end)s)
), bounds AS (
    SELECT organization_id, min(sequence) AS low, max(sequence) AS high
    FROM monthly GROUP BY organization_id
), ranges AS MATERIALIZED (
    SELECT p.organization_id, p.id, p.first_sequence, p.last_sequence,
        coalesce(p.amounts_nanos[array_position(p.accounts, 'customer_credit')], 0) AS credit,
        coalesce(p.amounts_nanos[array_position(p.accounts, 'receivable')], 0) AS receivable,
        coalesce(p.amounts_nanos[array_position(p.accounts, 'absorbed')], 0) AS absorbed
    FROM bounds b JOIN posting p ON p.organization_id = b.organization_id AND p.kind = 'calls'
        AND p.last_sequence >= b.low AND p.first_sequence <= b.high
), placed AS (
    SELECT *, max(start) OVER (
        PARTITION BY organization_id ORDER BY sequence, start NULLS LAST) AS belongs
    FROM (
        SELECT organization_id, first_sequence AS sequence, first_sequence AS start,
            0::bigint AS charge, 0::bigint AS absorbed, 0::numeric AS owed
        FROM ranges
        UNION ALL
        SELECT organization_id, sequence, NULL, charge, absorbed, owed FROM monthly
    ) AS rows
), summed AS (
    SELECT organization_id, belongs, count(*) AS calls, min(sequence) AS call_first,
        max(sequence) AS call_last, sum(charge)::bigint AS charge, sum(owed)::bigint AS owed,
        sum(absorbed)::bigint AS absorbed
    FROM placed WHERE start IS NULL AND belongs IS NOT NULL GROUP BY 1, 2
)
INSERT INTO dropped_part (posting_id, month, organization_id, first_sequence, calls, call_first,
    call_last, charge_nanos, owed_nanos, absorbed_nanos)
SELECT r.id, %(month)s, s.organization_id, s.belongs, s.calls, s.call_first, s.call_last, s.charge,
    s.owed, s.absorbed
FROM summed s
JOIN ranges r ON r.organization_id = s.organization_id AND r.first_sequence = s.belongs
WHERE (r.last_sequence, r.last_sequence - r.first_sequence + 1, r.credit, r.receivable, r.absorbed)
    IS DISTINCT FROM (s.call_last, s.calls, s.charge - s.owed, s.owed, s.absorbed)
ON CONFLICT (posting_id, month) DO UPDATE SET calls = dropped_part.calls + excluded.calls,
    call_first = least(dropped_part.call_first, excluded.call_first),
    call_last = greatest(dropped_part.call_last, excluded.call_last),
    charge_nanos = dropped_part.charge_nanos + excluded.charge_nanos,
    owed_nanos = dropped_part.owed_nanos + excluded.owed_nanos,
    absorbed_nanos = dropped_part.absorbed_nanos + excluded.absorbed_nanos

-- name: keep_use
-- Cut where limits in total begin to count, and at the first whole hour after: from there on the
-- hourly rollup counts for the scopes that it knows.
WITH edges AS MATERIALIZED (
    SELECT DISTINCT s.organization_id, e.at
    FROM scope_limit s, json_array_elements(s.rules) AS r,
        LATERAL (SELECT (r ->> 'counts_from')::timestamptz AS at) AS f,
        unnest(ARRAY[f.at, date_trunc('hour', f.at + interval '1 hour' - interval '1 microsecond',
            'UTC')]) AS e (at)
    WHERE r ->> 'period' = 'total' AND f.at IS NOT NULL
), used AS MATERIALIZED (
    SELECT c.organization_id, coalesce((SELECT max(e.at) FROM edges e
            WHERE e.organization_id = c.organization_id AND e.at <= c.admitted_at),
            timestamptz '1970-01-01 00:00:00Z') AS since,
        c.project_id, c.key_id, c.feature, c.environment, c.user_ref, c.run_ref, c.tags, c.model,
        sum(c.charge_nanos) AS money, sum(c.input_tokens + c.output_tokens) AS tokens,
        count(*) AS calls
    FROM call c
    WHERE c.id >= farebox_uuid_floor(%(start)s) AND c.id < farebox_uuid_floor(%(end)s)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
), scopes AS (
    SELECT u.organization_id, s.kind, s.ref, u.model, u.since, u.money, u.tokens, u.calls
    FROM used u, LATERAL (VALUES ('organization', u.organization_id::text),
        ('project', u.project_id::text), ('key', u.key_id::text), ('feature', u.feature),
        ('environment', u.environment), ('user', u.user_ref), ('run', u.run_ref)) AS s (kind, ref)
    WHERE s.ref <> ''
    UNION ALL
    SELECT u.organization_id, 'tag', t.key || '=' || t.value, u.model, u.since, u.money, u.tokens,
        u.calls
    FROM used u, jsonb_each_text(u.tags) AS t
    WHERE strpos(t.key, '=') = 0
)
INSERT INTO dropped_use (organization_id, kind, ref, model, since, money, tokens, calls)
SELECT organization_id, kind, ref, model, since, sum(money), sum(tokens), sum(calls)
FROM scopes GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (organization_id, kind, ref, model, since) DO UPDATE SET
    money = dropped_use.money + excluded.money, tokens = dropped_use.tokens + excluded.tokens,
    calls = dropped_use.calls + excluded.calls

-- name: drop_content
SELECT farebox_drop_content_until((farebox_now() AT TIME ZONE 'UTC')::date, %(most)s)

-- name: take_turn
-- One at a time: two workers never add the same month up.
SELECT pg_try_advisory_xact_lock(4197363911)

-- name: has_month
SELECT farebox_month_part(%(parent)s, %(month)s) IS NOT NULL
