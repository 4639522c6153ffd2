-- A limit says whose it is: one that comes with the usage tier has the origin `tier`, which is part of
-- its number, and stands beside the organisation's own of the same kind (LIM-06). Until now a tier's
-- limits were known by the beginning of their owner, and their month by the models `*`.

CREATE TEMPORARY TABLE moved ON COMMIT DROP AS
SELECT s.organization_id, s.number AS scope, r.place,
    farebox_number(f.measure, f.period, f.effect, f.models) AS before,
    farebox_number(f.measure, f.period, f.effect, n.models, 'tier') AS after,
    (r.rule::jsonb || jsonb_build_object('models', n.models, 'origin', 'tier'))::json AS rule
FROM scope_limit s, json_array_elements(s.rules) WITH ORDINALITY AS r (rule, place),
    LATERAL (SELECT coalesce(r.rule ->> 'measure', 'money') AS measure,
        coalesce(r.rule ->> 'period', 'month') AS period,
        coalesce(r.rule ->> 'effect', 'hard') AS effect,
        coalesce(r.rule ->> 'models', '') AS models) AS f,
    LATERAL (SELECT CASE WHEN f.measure = 'money' AND f.models = '*' THEN '' ELSE f.models END
        AS models) AS n
WHERE s.kind = 'organization' AND f.effect = 'hard' AND starts_with(r.rule ->> 'owner', 'tier ');

UPDATE scope_limit s SET
    rules = (
        SELECT json_agg(coalesce(m.rule, r.rule) ORDER BY r.place)
        FROM json_array_elements(s.rules) WITH ORDINALITY AS r (rule, place)
        LEFT JOIN moved m ON m.organization_id = s.organization_id AND m.scope = s.number
            AND m.place = r.place),
    windows = coalesce((
        SELECT array_agg(coalesce(m.after, w.number) ORDER BY w.place)
        FROM unnest(s.windows) WITH ORDINALITY AS w (number, place)
        LEFT JOIN moved m ON m.organization_id = s.organization_id AND m.scope = s.number
            AND m.before = w.number AND w.place % 6 = 1), '{}')
WHERE EXISTS (SELECT FROM moved m WHERE m.organization_id = s.organization_id
    AND m.scope = s.number);

-- Four numbers each: scope, rule, start, amount.
UPDATE hold h SET raised = (
    SELECT array_agg(coalesce(m.after, r.number) ORDER BY r.place)
    FROM unnest(h.raised) WITH ORDINALITY AS r (number, place)
    LEFT JOIN moved m ON m.organization_id = h.organization_id AND m.before = r.number
        AND r.place % 4 = 2 AND m.scope = h.raised[r.place - 1])
WHERE h.raised IS NOT NULL
  AND EXISTS (SELECT FROM moved m WHERE m.organization_id = h.organization_id);

COMMENT ON FUNCTION farebox_number IS 'The number of a scope (kind, ref) or of a rule (measure,
period, effect, models, and the origin where it is not manual): as in ledger/scopes.py and
ledger/limits.py.';

CREATE VIEW call_scope AS
    SELECT c.id, c.organization_id, c.sequence, c.state, c.admitted_at, c.model,
        c.charge_nanos AS money, c.input_tokens + c.output_tokens AS tokens, s.kind, s.ref
    FROM call c, LATERAL (
        VALUES ('organization', c.organization_id::text), ('project', c.project_id::text),
            ('key', c.key_id::text), ('environment', c.environment), ('feature', c.feature),
            ('user', c.user_ref)
        UNION ALL
        SELECT 'run', left(c.run_ref, place) FROM generate_series(1, length(c.run_ref)) AS place
        WHERE place = length(c.run_ref) OR substr(c.run_ref, place + 1, 1) = '/'
        UNION ALL
        SELECT 'tag', t.key || '=' || t.value FROM jsonb_each_text(c.tags) AS t
        WHERE strpos(t.key, '=') = 0) AS s (kind, ref)
    WHERE s.ref <> '';
COMMENT ON VIEW call_scope IS 'Every scope that a closed call is counted under, as in
ledger/scopes.py; ids with hyphens.';
