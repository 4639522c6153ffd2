-- Refused calls: written in batches beside the money path, once each.

-- name: insert_refusals
INSERT INTO refusal (id, organization_id, project_id, key_id, refused_at, code, message, model,
    endpoint, needed_nanos, available_nanos, held_nanos, limit_figures, user_ref, feature, times)
SELECT t.id, t.organization_id, t.project_id, t.key_id,
    n.now - t.age_microseconds * interval '1 microsecond', t.code, t.message, t.model, t.endpoint,
    t.needed, t.available, t.held, t.limit_figures::jsonb, t.user_ref, t.feature, t.times
FROM (SELECT farebox_now() AS now) AS n, unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[],
        %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[],
        %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[])
    AS t (id, organization_id, project_id, key_id, age_microseconds, code, message, model, endpoint,
          needed, available, held, limit_figures, user_ref, feature, times)
ON CONFLICT (id) DO NOTHING
