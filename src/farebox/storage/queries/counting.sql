-- What the calls of scopes, admitted in windows, have used: for limits that begin in the middle of
-- traffic. Wanted are pairs of scope and window: kinds, references, exact models ('' for none),
-- beginnings of models, starts and ends; the answers name them by their places, from one.

-- name: begin
-- Where an organisation stands at one instant: its clock, its last number, its newest call, the calls
-- that are open, and how many months retention has dropped.
SELECT farebox_now(), o.zone, o.last_time, o.sequence,
    (SELECT c.id FROM call c WHERE c.organization_id = o.id ORDER BY c.id DESC LIMIT 1),
    ARRAY(SELECT h.call_id FROM hold h WHERE h.organization_id = o.id),
    (SELECT count(*) FROM dropped_month d WHERE d.parent = 'call')
FROM organization o WHERE o.id = $1::uuid

-- name: page
-- One page of calls in the order of their ids, up to a number. A lapsed call may still be answered:
-- unless $5 says that nothing changes now, it is named and not counted.
WITH page AS MATERIALIZED (
    SELECT id, state, sequence FROM call
    WHERE organization_id = $1::uuid AND id > $2::uuid ORDER BY id LIMIT $4::int
), ends AS MATERIALIZED (
    SELECT (array_agg(id ORDER BY id DESC))[1] AS last, count(*) AS calls,
        coalesce(array_agg(id) FILTER (WHERE state = 'lapsed' AND sequence <= $3::bigint), '{}')
            AS lapsed
    FROM page
), wanted AS (
    SELECT * FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[],
        $11::timestamptz[]) WITH ORDINALITY AS w (kind, ref, model, prefix, starts, ends, place)
), counted AS (
    SELECT w.place, sum(c.money)::bigint AS money, sum(c.tokens)::bigint AS tokens,
        count(*) AS calls
    FROM ends e
    JOIN call_scope c ON c.organization_id = $1::uuid AND c.id > $2::uuid AND c.id <= e.last
    JOIN wanted w ON w.kind = c.kind AND w.ref = c.ref
    WHERE c.sequence <= $3::bigint AND (c.state <> 'lapsed' OR $5::boolean)
      AND c.admitted_at >= w.starts AND c.admitted_at < w.ends
      AND w.model IN ('', c.model) AND starts_with(c.model, w.prefix)
    GROUP BY w.place
)
SELECT e.last, e.calls, e.lapsed, ARRAY(SELECT place FROM counted ORDER BY place),
    ARRAY(SELECT money FROM counted ORDER BY place),
    ARRAY(SELECT tokens FROM counted ORDER BY place),
    ARRAY(SELECT calls FROM counted ORDER BY place)
FROM ends e

-- name: rest
-- What came after the pages: calls that ended past a number ($3), found among the open ones of then
-- ($4) and the newest ids (from $2 on), and those that had lapsed ($5), as they are now. How many
-- numbers that explains says whether every call was found.
WITH ended AS MATERIALIZED (
    SELECT id FROM call
    WHERE organization_id = $1::uuid AND id >= $2::uuid AND sequence > $3::bigint
    UNION
    SELECT id FROM call
    WHERE id = ANY($4::uuid[]) AND organization_id = $1::uuid AND sequence > $3::bigint
), named AS MATERIALIZED (
    SELECT id FROM ended UNION ALL SELECT unnest($5::uuid[])
), wanted AS (
    SELECT * FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[],
        $11::timestamptz[]) WITH ORDINALITY AS w (kind, ref, model, prefix, starts, ends, place)
), counted AS (
    SELECT w.place, sum(c.money)::bigint AS money, sum(c.tokens)::bigint AS tokens,
        count(*) AS calls
    FROM named n
    JOIN call_scope c ON c.id = n.id
    JOIN wanted w ON w.kind = c.kind AND w.ref = c.ref
    WHERE c.admitted_at >= w.starts AND c.admitted_at < w.ends
      AND w.model IN ('', c.model) AND starts_with(c.model, w.prefix)
    GROUP BY w.place
)
SELECT (SELECT count(*) FROM ended)
        + (SELECT count(*) FROM credit_grant
           WHERE organization_id = $1::uuid AND sequence > $3::bigint),
    (SELECT count(*) FROM dropped_month WHERE parent = 'call'),
    ARRAY(SELECT place FROM counted ORDER BY place),
    ARRAY(SELECT money FROM counted ORDER BY place),
    ARRAY(SELECT tokens FROM counted ORDER BY place),
    ARRAY(SELECT calls FROM counted ORDER BY place)

-- name: dropped
-- What retention has kept of calls that are gone.
WITH wanted AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
        $7::timestamptz[]) WITH ORDINALITY AS w (kind, ref, model, prefix, starts, ends, place)
), counted AS (
    SELECT w.place, sum(d.money)::bigint AS money, sum(d.tokens)::bigint AS tokens,
        sum(d.calls)::bigint AS calls
    FROM wanted w
    JOIN dropped_use d ON d.organization_id = $1::uuid AND d.kind = w.kind
        AND (d.ref = w.ref OR w.kind = 'run' AND starts_with(d.ref, w.ref || '/'))
    WHERE d.since >= w.starts AND d.since < w.ends
      AND w.model IN ('', d.model) AND starts_with(d.model, w.prefix)
    GROUP BY w.place
)
SELECT ARRAY(SELECT place FROM counted ORDER BY place),
    ARRAY(SELECT money FROM counted ORDER BY place),
    ARRAY(SELECT tokens FROM counted ORDER BY place),
    ARRAY(SELECT calls FROM counted ORDER BY place)

-- name: not_failed
-- How many calls that a limit counts which leaves out those that failed: were given up, refused or
-- broken upstream before anything was charged (LIM-03).
SELECT count(c.id)
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[])
    AS w (kind, ref, model, prefix, starts, ends)
LEFT JOIN call_scope c ON c.organization_id = $1::uuid AND c.kind = w.kind AND c.ref = w.ref
    AND c.admitted_at >= w.starts AND c.admitted_at < w.ends
    AND w.model IN ('', c.model) AND starts_with(c.model, w.prefix) AND c.state <> 'released'
