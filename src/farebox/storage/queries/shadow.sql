-- What limits in shadow would have refused, from the figures that calls keep of their admission.

-- name: shadow_refusals
-- One row at least: since when calls were looked at. A wanted scope without a reference is the
-- default of its kind and has the calls of every scope. What a call needs at least is as in
-- ledger/admission.py and ledger/counters.py (hold_amount with output_min, Amounts.of,
-- Standing.takes); a call keeps no bound of its input's tokens, so those that came in stand for it.
WITH wanted AS (
    SELECT * FROM unnest(%(kinds)s::text[], %(refs)s::text[]) AS w (kind, ref)
), closed AS MATERIALIZED (
    SELECT id, admitted_at, ceiling, input_tokens, limit_figures
    FROM call WHERE organization_id = %(organization_id)s
    ORDER BY id DESC LIMIT %(calls)s
), looked_at AS (
    SELECT * FROM closed
    UNION ALL
    (SELECT call_id, admitted_at, ceiling, tokens - output_limit, limit_figures
     FROM hold WHERE organization_id = %(organization_id)s
     ORDER BY call_id DESC LIMIT %(calls)s)
), bound AS (
    SELECT greatest(
        farebox_now() - %(back)s::interval,
        CASE WHEN count(*) = %(calls)s THEN min(admitted_at) END) AS since
    FROM closed
), refused AS (
    SELECT w.kind, w.ref, coalesce(f.measure, 'money') AS measure, f.period,
        coalesce(f.models, '') AS models, count(*) AS calls,
        max(l.id::text COLLATE "C")::uuid AS last_id,
        max(l.admitted_at) AS last_at
    FROM bound b
    JOIN looked_at l ON l.admitted_at >= b.since
        AND l.limit_figures @> '[{"effect": "shadow"}]'
    CROSS JOIN LATERAL jsonb_to_recordset(l.limit_figures) AS f (
        scope_kind text, scope_id text, measure text, period text, effect text, models text,
        maximum bigint, used bigint, held bigint)
    JOIN wanted w ON w.kind = f.scope_kind AND w.ref IN (f.scope_id, '')
    WHERE f.effect = 'shadow' AND f.maximum - f.used - f.held < CASE coalesce(f.measure, 'money')
        WHEN 'money' THEN l.ceiling[1] + ceil(l.ceiling[3]::numeric * l.ceiling[2] / 1000000)
        WHEN 'tokens' THEN l.input_tokens + l.ceiling[3]
        WHEN 'depth' THEN 0
        ELSE 1 END
    GROUP BY w.kind, w.ref, coalesce(f.measure, 'money'), f.period, coalesce(f.models, '')
)
SELECT b.since, r.kind, r.ref, r.measure, r.period, r.models, r.calls, r.last_id, r.last_at
FROM bound b LEFT JOIN refused r ON true
