-- What an audit of the books reads. Rows that prove themselves come in pages, each a statement of
-- its own; sums that must agree come from one short snapshot per organisation. Sums are cast back
-- to bigint: one that does not fit is an error, not a rounding. Calls of months that retention has
-- dropped count by what was kept of them (migration 0005).

-- name: organizations
SELECT id FROM organization WHERE id > %(after)s ORDER BY id LIMIT %(limit)s

-- name: orphans
-- Organisations that rows name and that do not exist, each table walked from id to id.
WITH RECURSIVE named (source, id) AS (
    (SELECT 'call', organization_id FROM call ORDER BY organization_id LIMIT 1)
    UNION ALL (SELECT 'hold', organization_id FROM hold ORDER BY organization_id LIMIT 1)
    UNION ALL (SELECT 'posting', organization_id FROM posting ORDER BY organization_id LIMIT 1)
    UNION ALL
        (SELECT 'rollup_hour', organization_id FROM rollup_hour ORDER BY organization_id LIMIT 1)
    UNION ALL
    SELECT n.source, CASE n.source
        WHEN 'call' THEN (SELECT organization_id FROM call WHERE organization_id > n.id
                          ORDER BY organization_id LIMIT 1)
        WHEN 'hold' THEN (SELECT organization_id FROM hold WHERE organization_id > n.id
                          ORDER BY organization_id LIMIT 1)
        WHEN 'posting' THEN (SELECT organization_id FROM posting WHERE organization_id > n.id
                             ORDER BY organization_id LIMIT 1)
        ELSE (SELECT organization_id FROM rollup_hour WHERE organization_id > n.id
              ORDER BY organization_id LIMIT 1)
        END
    FROM named n WHERE n.id IS NOT NULL
)
SELECT n.source, n.id FROM named n
WHERE n.id IS NOT NULL AND NOT EXISTS (SELECT FROM organization o WHERE o.id = n.id)
ORDER BY n.id, n.source LIMIT %(limit)s

-- name: call_page
SELECT id, state, held_nanos, charge_nanos, absorbed_nanos, owed_nanos, late_charge_nanos,
       late_absorbed_nanos, estimated, price_id, line_units, line_quantities, line_prices,
       line_nanos, draw_nanos
FROM call WHERE organization_id = %(organization_id)s AND id > %(after)s
ORDER BY id LIMIT %(limit)s

-- name: overruns_told
SELECT DISTINCT (facts ->> 'call_id')::uuid FROM outbox
WHERE organization_id = %(organization_id)s AND kind = 'overrun'
  AND facts ->> 'call_id' = ANY(%(call_ids)s)

-- name: price_versions
SELECT id, base_units, base_prices, long_units, long_prices
FROM price_version WHERE id = ANY(%(ids)s)

-- name: posting_page
SELECT p.id, p.kind, p.at, p.accounts, p.amounts_nanos, p.grant_id, p.call_id, g.expires_at,
       coalesce(c.state, d.state), coalesce(c.late_charge_nanos, d.late_charge_nanos, 0),
       coalesce(c.late_absorbed_nanos, d.late_absorbed_nanos, 0)
FROM posting p
LEFT JOIN credit_grant g ON g.id = p.grant_id
LEFT JOIN call c ON c.id = p.call_id AND c.organization_id = p.organization_id
LEFT JOIN dropped_call d ON d.id = p.call_id AND d.organization_id = p.organization_id
WHERE p.organization_id = %(organization_id)s AND p.id > %(after)s
ORDER BY p.id LIMIT %(limit)s

-- name: quarantined
SELECT id, command_kind, error FROM quarantine
WHERE organization_id = %(organization_id)s AND ruled_at IS NULL ORDER BY id LIMIT %(limit)s

-- name: begin_snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- name: hold_months
-- Before the snapshot is taken: no month is dropped in the middle of it.
LOCK TABLE call IN ACCESS SHARE MODE

-- name: bound_snapshot
-- The server ends a snapshot that the program forgets, long before it harms a hot row.
SELECT set_config('idle_in_transaction_session_timeout', '20s', true),
       set_config('statement_timeout', '55s', true), set_config('work_mem', '64MB', true)

-- name: organization
SELECT id, sequence, granted_nanos, owed_nanos, spent_nanos, reserved_nanos, unreserved_nanos,
       frozen_nanos, expired_nanos, refunded_nanos, unsecured_held_nanos, absorbed_nanos,
       farebox_now()
FROM organization WHERE id = %(organization_id)s

-- name: call_sums
SELECT coalesce(sum(charge), 0)::bigint, coalesce(sum(absorbed), 0)::bigint,
       coalesce(sum(owed), 0)::bigint
FROM (
    SELECT charge_nanos, absorbed_nanos, owed_nanos FROM call
    WHERE organization_id = %(organization_id)s
    UNION ALL
    SELECT charge_nanos, absorbed_nanos, owed_nanos FROM dropped_calls
    WHERE organization_id = %(organization_id)s
) AS calls (charge, absorbed, owed)

-- name: sequences
SELECT n.rows + d.calls, n.numbers + d.calls, greatest(n.highest, d.highest), d.calls
FROM (
    SELECT count(*) AS rows, count(DISTINCT sequence) AS numbers,
        coalesce(max(sequence), 0) AS highest
    FROM (
        SELECT sequence FROM call WHERE organization_id = %(organization_id)s
        UNION ALL SELECT sequence FROM credit_grant WHERE organization_id = %(organization_id)s
    ) AS numbered
) AS n, (
    SELECT coalesce(sum(calls), 0)::bigint AS calls, coalesce(max(sequence_max), 0) AS highest
    FROM dropped_calls WHERE organization_id = %(organization_id)s
) AS d

-- name: journal_sums
SELECT p.kind, e.account, sum(e.nanos)::bigint
FROM posting p, unnest(p.accounts, p.amounts_nanos) AS e (account, nanos)
WHERE p.organization_id = %(organization_id)s
GROUP BY p.kind, e.account

-- name: grants
WITH drawn AS (
    SELECT d.grant_id, sum(d.nanos) AS nanos
    FROM (
        SELECT d.grant_id, d.nanos FROM call c, unnest(c.draw_grants, c.draw_nanos)
            AS d (grant_id, nanos)
        WHERE c.organization_id = %(organization_id)s
        UNION ALL
        SELECT grant_id, nanos FROM dropped_draw WHERE organization_id = %(organization_id)s
    ) AS d
    GROUP BY d.grant_id
), earmarked AS (
    SELECT e.grant_id, sum(e.nanos) AS nanos
    FROM hold h, unnest(h.earmark_grants, h.earmark_nanos) AS e (grant_id, nanos)
    WHERE h.organization_id = %(organization_id)s GROUP BY e.grant_id
), posted AS (
    SELECT p.grant_id,
        sum(e.nanos) FILTER (WHERE p.kind = 'grant' AND e.account = 'clearing') AS paid,
        sum(e.nanos) FILTER (WHERE p.kind = 'grant' AND e.account = 'promotion_expense') AS free,
        sum(e.nanos) FILTER (WHERE p.kind = 'repayment' AND e.account = 'customer_credit')
            AS repaid,
        -sum(e.nanos) FILTER (WHERE e.account = 'breakage') AS expired,
        sum(e.nanos) FILTER (WHERE p.kind IN ('refund', 'dispute_lost')
                               AND e.account = 'customer_credit') AS refunded
    FROM posting p, unnest(p.accounts, p.amounts_nanos) AS e (account, nanos)
    WHERE p.organization_id = %(organization_id)s AND p.grant_id IS NOT NULL
    GROUP BY p.grant_id
)
SELECT coalesce(g.id, d.grant_id, e.grant_id, p.grant_id, '00000000-0000-0000-0000-000000000000'),
    g.source, g.state, coalesce(g.amount_nanos, 0), coalesce(g.remaining_nanos, 0),
    coalesce(g.reserved_nanos, 0), coalesce(g.frozen_nanos, 0), coalesce(g.repaid_nanos, 0),
    coalesce(g.expired_nanos, 0), coalesce(g.refunded_nanos, 0), coalesce(d.nanos, 0)::bigint,
    coalesce(e.nanos, 0)::bigint, coalesce(p.paid, 0)::bigint, coalesce(p.free, 0)::bigint,
    coalesce(p.repaid, 0)::bigint, coalesce(p.expired, 0)::bigint, coalesce(p.refunded, 0)::bigint
FROM (SELECT * FROM credit_grant WHERE organization_id = %(organization_id)s) AS g
FULL JOIN drawn d ON d.grant_id = g.id
FULL JOIN earmarked e ON e.grant_id = coalesce(g.id, d.grant_id)
FULL JOIN posted p ON p.grant_id = coalesce(g.id, d.grant_id, e.grant_id)
ORDER BY g.sequence

-- name: limits
SELECT organization_id, kind, ref, rules::text, windows
FROM scope_limit WHERE organization_id = %(organization_id)s

-- name: forgotten_before
-- Once calls are dropped, windows that nothing reaches any more are not counted anew: their scopes
-- forget them with their next call (ledger/limits.py, WINDOW_KEPT).
SELECT farebox_now() - interval '35 days' FROM dropped_calls
WHERE organization_id = %(organization_id)s

-- name: used_between
SELECT coalesce(sum(money), 0)::bigint, coalesce(sum(tokens), 0)::bigint,
       coalesce(sum(calls), 0)::bigint
FROM (
SELECT money, tokens, calls FROM dropped_use
WHERE organization_id = %(organization_id)s AND kind = %(kind)s AND since >= %(start)s
  AND since < %(end)s
  AND (%(model)s = '' OR model = %(model)s OR starts_with(model, %(prefix)s))
  AND (ref = %(ref)s OR kind = 'run' AND starts_with(ref, %(ref)s || '/'))
UNION ALL
SELECT charge_nanos, input_tokens + output_tokens, 1
FROM call
WHERE organization_id = %(organization_id)s AND admitted_at >= %(start)s AND admitted_at < %(end)s
  AND (%(failed)s OR state <> 'released')
  AND (%(model)s = '' OR model = %(model)s OR starts_with(model, %(prefix)s))
  AND CASE %(kind)s
      WHEN 'project' THEN project_id::text = %(ref)s WHEN 'key' THEN key_id::text = %(ref)s
      WHEN 'feature' THEN feature = %(ref)s WHEN 'environment' THEN environment = %(ref)s
      WHEN 'user' THEN user_ref = %(ref)s
      WHEN 'run' THEN run_ref = %(ref)s OR starts_with(run_ref, %(ref)s || '/')
      WHEN 'tag' THEN
          tags ->> split_part(%(ref)s, '=', 1) = substr(%(ref)s, strpos(%(ref)s, '=') + 1)
      ELSE true END
) AS used

-- name: holds
SELECT h.call_id, h.amount_nanos, h.unsecured_nanos, h.earmark_nanos, h.raised, h.admitted_at,
       h.latest_end, EXISTS (SELECT FROM call c WHERE c.id = h.call_id), h.project_id, h.key_id,
       h.feature, h.environment, h.model, h.lane, h.endpoint, h.tokens, h.user_ref, h.run_ref,
       h.tags
FROM hold h WHERE h.organization_id = %(organization_id)s ORDER BY h.call_id

-- name: unequal_ranges
-- Postings of calls that differ from the calls they cover. A call belongs to the range that begins
-- last at or before its sequence; late corrections are postings of their own and are taken off. A
-- posting of which nothing is left is past retention; the totals vouch for those together.
WITH late AS (
    SELECT p.call_id, sum(e.nanos) AS owed
    FROM posting p, unnest(p.accounts, p.amounts_nanos) AS e (account, nanos)
    WHERE p.organization_id = %(organization_id)s AND p.kind = 'late' AND p.grant_id IS NULL
      AND e.account = 'receivable'
    GROUP BY p.call_id
), ranges AS (
    SELECT id, first_sequence, last_sequence,
        coalesce(lag(last_sequence) OVER (ORDER BY first_sequence, id), 0) AS range_before_ends,
        coalesce(amounts_nanos[array_position(accounts, 'customer_credit')], 0) AS credit,
        coalesce(amounts_nanos[array_position(accounts, 'receivable')], 0) AS receivable,
        coalesce(amounts_nanos[array_position(accounts, 'absorbed')], 0) AS absorbed,
        coalesce(amounts_nanos[array_position(accounts, 'revenue')], 0) AS revenue
    FROM posting WHERE organization_id = %(organization_id)s AND kind = 'calls'
), placed AS (
    SELECT *, max(start) OVER (ORDER BY sequence, start NULLS LAST) AS belongs
    FROM (
        SELECT first_sequence AS sequence, first_sequence AS start, 0::bigint AS charge,
               0::bigint AS absorbed, 0::numeric AS owed
        FROM ranges
        UNION ALL
        SELECT c.sequence, NULL, c.charge_nanos - c.late_charge_nanos,
               c.absorbed_nanos - c.late_absorbed_nanos, c.owed_nanos - coalesce(l.owed, 0)
        FROM call c LEFT JOIN late l ON l.call_id = c.id
        WHERE c.organization_id = %(organization_id)s
    ) AS rows
), summed AS (
    SELECT coalesce(belongs, 0) AS belongs, sum(calls)::bigint AS calls,
           min(call_first) AS call_first, max(call_last) AS call_last,
           sum(charge)::bigint AS charge, sum(owed)::bigint AS owed,
           sum(absorbed)::bigint AS absorbed
    FROM (
        SELECT belongs, 1 AS calls, sequence AS call_first, sequence AS call_last, charge, owed,
               absorbed
        FROM placed WHERE start IS NULL
        UNION ALL
        SELECT first_sequence, calls, call_first, call_last, charge_nanos, owed_nanos,
               absorbed_nanos
        FROM dropped_part WHERE organization_id = %(organization_id)s
    ) AS rows
    GROUP BY 1
)
SELECT r.id, coalesce(r.first_sequence, 0), coalesce(r.last_sequence, 0),
    coalesce(r.range_before_ends, 0), coalesce(r.credit, 0), coalesce(r.receivable, 0),
    coalesce(r.absorbed, 0), coalesce(r.revenue, 0), coalesce(s.calls, 0),
    coalesce(s.call_first, 0), coalesce(s.call_last, 0), coalesce(s.charge, 0),
    coalesce(s.owed, 0), coalesce(s.absorbed, 0)
FROM ranges r FULL JOIN summed s ON s.belongs = r.first_sequence
WHERE (r.first_sequence, r.last_sequence, r.credit, r.receivable, r.absorbed, r.revenue)
      IS DISTINCT FROM (s.call_first, s.call_last, s.charge - s.owed, s.owed, s.absorbed,
                        -s.charge - s.absorbed)
       AND NOT (s.belongs IS NULL AND r.range_before_ends < r.first_sequence
                AND r.last_sequence <= coalesce((SELECT sequence_max FROM dropped_calls
                    WHERE organization_id = %(organization_id)s), 0))
   OR r.range_before_ends >= r.first_sequence
ORDER BY coalesce(r.first_sequence, s.call_first)

-- name: unequal_rollups
-- Hours whose rollup differs from the calls that were admitted in them. Hours that calls were dropped
-- of may have more, all together exactly what was kept of those calls: one row without a model.
-- And days that are summed and differ from their hours.
WITH gone AS (
    SELECT * FROM dropped_calls WHERE organization_id = %(organization_id)s
), compared AS MATERIALIZED (
    SELECT coalesce(c.hour, r.hour) AS hour, coalesce(c.model, r.model) AS model,
        r.measures AS stored, c.measures AS counted,
        coalesce(c.hour, r.hour) BETWEEN g.first_hour AND g.last_hour
            AND r.measures IS NOT NULL AND NOT EXISTS (
                SELECT FROM unnest(c.measures, r.measures) AS m (counted, stored)
                WHERE m.counted > m.stored) AS past
    FROM (
        SELECT date_trunc('hour', admitted_at, 'UTC') AS hour, project_id, key_id, feature,
            environment, model, lane, endpoint,
            ARRAY[count(*), sum(charge_nanos), sum(absorbed_nanos), sum(cost_nanos),
                  sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens),
                  sum(output_tokens), sum(reasoning_tokens)]::bigint[] AS measures
        FROM call WHERE organization_id = %(organization_id)s
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ) AS c
    FULL JOIN (
        SELECT hour, project_id, key_id, feature, environment, model, lane, endpoint,
            ARRAY[calls, charge_nanos, absorbed_nanos, cost_nanos, input_tokens, cached_tokens,
                  cache_write_tokens, output_tokens, reasoning_tokens] AS measures
        FROM rollup_hour WHERE organization_id = %(organization_id)s
    ) AS r ON (c.hour, c.project_id, c.key_id, c.feature, c.environment, c.model, c.lane,
               c.endpoint)
            = (r.hour, r.project_id, r.key_id, r.feature, r.environment, r.model, r.lane,
               r.endpoint)
    LEFT JOIN gone g ON true
    WHERE r.measures IS DISTINCT FROM c.measures
), together AS (
    SELECT g.last_hour AS hour, ARRAY[g.calls, g.charge_nanos, g.absorbed_nanos, g.cost_nanos,
            g.input_tokens, g.cached_tokens, g.cache_write_tokens, g.output_tokens,
            g.reasoning_tokens] AS kept, (
        SELECT array_agg(m.more ORDER BY m.place) FROM (
            SELECT e.place, sum(e.stored - coalesce(e.counted, 0))::bigint AS more
            FROM compared, unnest(stored, counted) WITH ORDINALITY AS e (stored, counted, place)
            WHERE past GROUP BY e.place) AS m) AS more
    FROM gone g
), summed AS MATERIALIZED (
    SELECT day FROM summed_day WHERE organization_id = %(organization_id)s AND is_summed
), days AS (
    SELECT coalesce(h.day, d.day) AS day, coalesce(h.model, d.model) AS model,
        d.measures AS stored, h.measures AS counted
    FROM (
        SELECT s.day, project_id, key_id, feature, environment, model, endpoint,
            ARRAY[sum(calls), sum(charge_nanos), sum(absorbed_nanos), sum(cost_nanos),
                  sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens),
                  sum(output_tokens), sum(reasoning_tokens)]::bigint[] AS measures
        FROM summed s
        JOIN rollup_hour r ON r.hour >= s.day AND r.hour < s.day + interval '24 hours'
        WHERE organization_id = %(organization_id)s
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    ) AS h
    FULL JOIN (
        SELECT day, project_id, key_id, feature, environment, model, endpoint,
            ARRAY[sum(calls), sum(charge_nanos), sum(absorbed_nanos), sum(cost_nanos),
                  sum(input_tokens), sum(cached_tokens), sum(cache_write_tokens),
                  sum(output_tokens), sum(reasoning_tokens)]::bigint[] AS measures
        FROM summed JOIN rollup_day USING (day)
        WHERE organization_id = %(organization_id)s
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    ) AS d ON (h.day, h.project_id, h.key_id, h.feature, h.environment, h.model, h.endpoint)
            = (d.day, d.project_id, d.key_id, d.feature, d.environment, d.model, d.endpoint)
    WHERE d.measures IS DISTINCT FROM h.measures
)
SELECT hour, model, stored, counted FROM compared WHERE past IS NOT TRUE
UNION ALL
SELECT hour, '', more, kept FROM together WHERE more IS DISTINCT FROM kept
UNION ALL
SELECT day, model, stored, counted FROM days
ORDER BY 1, 2

-- name: count_rollups
SELECT count(*) FROM rollup_hour WHERE organization_id = %(organization_id)s
