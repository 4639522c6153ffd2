-- Scopes under a default alone whose counters nothing can reach any more.

-- name: scopes_over
-- One page of rows in the order of their keys; of each, whether it seems that it may be forgotten: it
-- has no rules of its own, and no window of its default's holds anything or can be found yet. Wall
-- time and totals never end; what counts open calls alone keeps nothing. The engine decides.
WITH page AS MATERIALIZED (
    SELECT organization_id, number, kind, ref, rules, windows FROM scope_limit
    WHERE (organization_id, number) > (%(organization_id)s, %(number)s)
    ORDER BY organization_id, number LIMIT %(limit)s
)
SELECT p.organization_id, p.number,
    p.ref <> '' AND json_array_length(p.rules) = 0 AND NOT EXISTS (
        SELECT FROM json_array_elements(d.rules) AS r,
            LATERAL (SELECT coalesce(r ->> 'measure', 'money') AS measure,
                coalesce(r ->> 'period', 'month') AS period,
                coalesce(r ->> 'effect', 'hard') AS effect,
                coalesce(r ->> 'models', '') AS models) AS f
        JOIN generate_series(1, cardinality(p.windows), 6) AS i
            ON p.windows[i] = farebox_number(f.measure, f.period, f.effect, f.models)
        WHERE p.windows[i + 4] <> 0 OR f.measure NOT IN ('parallel', 'depth')
            AND to_timestamp(p.windows[i + 2] / 1000000.0) + CASE
                WHEN f.period IN ('minute', 'utc_day') THEN interval '0' ELSE %(kept)s::interval END
                > farebox_now())
FROM page p
LEFT JOIN scope_limit d ON d.organization_id = p.organization_id
    AND d.number = farebox_number(p.kind::text, '')
ORDER BY p.organization_id, p.number
