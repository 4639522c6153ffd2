-- What the doctor reads; nothing is written or locked. Lists that may be long are read from their
-- newest end and no further than a bound.

-- name: now
SELECT farebox_now()

-- name: node_alive
SELECT EXISTS (SELECT FROM node WHERE id = %(id)s AND epoch = %(epoch)s
               AND seen_at > clock_timestamp() - %(silence)s::interval)

-- name: find_keys
SELECT k.id, k.name, k.prefix, k.project_id, p.name, k.created_at, k.expires_at, k.revoked_at,
       u.used_at, p.archived_at, o.active, k.organization_id
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
LEFT JOIN key_use u ON u.key_id = k.id
WHERE (%(id)s::uuid IS NOT NULL AND k.id = %(id)s)
   OR (%(digest)s::bytea IS NOT NULL AND k.digest = %(digest)s)
   OR (%(prefix)s::text IS NOT NULL AND starts_with(k.prefix, %(prefix)s))
ORDER BY k.id DESC LIMIT %(limit)s

-- name: usable_keys
-- Of the project that is asked about before those of others.
SELECT k.id, k.name, k.prefix, k.project_id, p.name, k.created_at, k.expires_at, k.revoked_at,
       u.used_at, p.archived_at, o.active, k.organization_id
FROM api_key k
JOIN project p ON p.id = k.project_id
JOIN organization o ON o.id = k.organization_id
LEFT JOIN key_use u ON u.key_id = k.id
WHERE k.organization_id = %(organization_id)s AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
  AND (p.archived_at IS NULL OR p.archived_at > %(now)s)
ORDER BY (k.project_id = %(project_id)s::uuid) DESC NULLS LAST, k.id DESC LIMIT %(limit)s

-- name: find_management_key
SELECT name, revoked_at FROM management_key
WHERE (%(digest)s::bytea IS NOT NULL AND digest = %(digest)s) OR starts_with(prefix, %(prefix)s)
ORDER BY (digest = %(digest)s::bytea) DESC NULLS LAST, id DESC LIMIT 1

-- name: find_refusal
-- Among the newest of all: a message with its figures is as good as an id. One row for each
-- organisation that has it.
SELECT DISTINCT ON (organization_id) id, organization_id
FROM (SELECT id, organization_id, message FROM refusal ORDER BY id DESC LIMIT %(scanned)s) AS r
WHERE message <> '' AND starts_with(%(message)s, message)
ORDER BY organization_id, id DESC LIMIT 2

-- name: find_organization
SELECT id FROM organization
WHERE (%(id)s::uuid IS NOT NULL AND id = %(id)s)
   OR (%(name)s::text IS NOT NULL AND lower(name) = lower(%(name)s))

-- name: organization_of_project
SELECT organization_id FROM project WHERE id = %s

-- name: organization_of_grant
SELECT organization_id FROM credit_grant WHERE id = %s

-- name: first_organizations
SELECT id FROM organization ORDER BY id LIMIT %s

-- name: read_organization
SELECT name, currency, active, created_at, sequence FROM organization WHERE id = %s

-- name: read_project
SELECT id, name, owner, archived_at, allowed_models FROM project
WHERE id = %(id)s AND organization_id = %(organization_id)s

-- name: read_owners
SELECT u.email FROM member m JOIN console_user u ON u.id = m.user_id
WHERE m.organization_id = %(organization_id)s AND m.role = 'owner' AND u.disabled_at IS NULL
ORDER BY m.created_at LIMIT %(limit)s

-- name: scope_names
SELECT replace(id::text, '-', ''), name FROM project WHERE organization_id = %(organization_id)s
    AND replace(id::text, '-', '') = ANY(%(refs)s)
UNION ALL
SELECT replace(id::text, '-', ''), name FROM api_key WHERE organization_id = %(organization_id)s
    AND replace(id::text, '-', '') = ANY(%(refs)s)

-- name: read_limits
-- Kinds that have few scopes whole; of users, tags and runs those that are asked about. Defaults of
-- a kind (an empty reference) come before its scopes.
SELECT organization_id, kind, ref, rules::text, windows
FROM scope_limit
WHERE organization_id = %(organization_id)s
  AND (ref = '' OR kind IN ('organization', 'project', 'key', 'feature', 'environment')
       OR number = ANY(%(numbers)s))
ORDER BY kind, ref LIMIT %(limit)s

-- name: last_charge
-- By its admission: what settles after a grant's end may still draw on that grant.
SELECT max(c.admitted_at) FILTER (WHERE c.charge_nanos > 0)
FROM (SELECT admitted_at, charge_nanos FROM call WHERE organization_id = %(organization_id)s
      ORDER BY id DESC LIMIT %(limit)s) AS c

-- name: read_tier
SELECT t.name, t.monthly_maximum_nanos, n.name, n.purchases_nanos,
    coalesce((SELECT sum(r.charge_nanos) FROM rollup_hour r
              WHERE r.organization_id = %(organization_id)s AND r.hour >= %(month_start)s
                AND r.hour < %(month_end)s), 0)::bigint
FROM organization_tier o
JOIN usage_tier t ON t.id = o.tier_id
LEFT JOIN usage_tier n ON n.currency = t.currency AND n.position = (
    SELECT min(position) FROM usage_tier WHERE currency = t.currency AND position > t.position)
WHERE o.organization_id = %(organization_id)s

-- name: read_refusals
-- The last day's, by code and limit, or by key where the key is the matter; the newest of each.
WITH day AS (
    SELECT r.*, r.limit_figures ->> 'scope_kind' AS scope_kind,
        r.limit_figures ->> 'scope_id' AS scope_id, r.limit_figures ->> 'period' AS period,
        r.limit_figures ->> 'measure' AS measure, r.limit_figures ->> 'models' AS models,
        CASE WHEN r.code IN ('key_revoked', 'key_expired', 'key_not_found', 'project_archived')
             THEN r.key_id END AS about_key
    FROM (SELECT * FROM refusal
          WHERE organization_id = %(organization_id)s
            AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
          ORDER BY id DESC LIMIT %(scanned)s) AS r
    WHERE r.refused_at > %(now)s::timestamptz - interval '1 day'
), ranked AS (
    SELECT day.*, row_number() OVER like_it AS place, sum(times) OVER whole AS all_times,
        min(refused_at) OVER whole AS first_at
    FROM day
    WINDOW whole AS (PARTITION BY code, scope_kind, scope_id, period, measure, models, about_key),
        like_it AS (whole ORDER BY refused_at DESC, id DESC)
)
SELECT r.id, r.code, r.message, r.refused_at, r.model, r.needed_nanos, r.available_nanos,
    r.held_nanos, r.limit_figures::text, k.prefix, r.all_times::bigint, r.first_at
FROM ranked r LEFT JOIN api_key k ON k.id = r.key_id
WHERE r.place = 1 ORDER BY r.refused_at DESC, r.id DESC LIMIT %(limit)s

-- name: read_endings
-- Calls of the last day that did not end ordinarily, or used more than they held.
SELECT state, split_part(reason, ':', 1), count(*), (array_agg(id ORDER BY id DESC))[1],
    max(ended_at), sum(absorbed_nanos)::bigint
FROM (SELECT id, state, reason, ended_at, absorbed_nanos FROM call
      WHERE organization_id = %(organization_id)s
        AND (%(key_id)s::uuid IS NULL OR key_id = %(key_id)s)
      ORDER BY id DESC LIMIT %(scanned)s) AS c
WHERE ended_at > %(now)s::timestamptz - interval '1 day' AND (reason <> '' OR absorbed_nanos > 0)
GROUP BY 1, 2 ORDER BY 3 DESC LIMIT %(limit)s

-- name: read_holds
SELECT count(*), coalesce(sum(h.amount_nanos), 0)::bigint, min(h.admitted_at),
    count(*) FILTER (WHERE (n.id IS NULL OR n.epoch <> h.epoch
        OR n.seen_at < clock_timestamp() - %(overdue)s::interval
        OR h.latest_end < %(now)s::timestamptz - %(overdue)s::interval)
      AND NOT EXISTS (SELECT FROM quarantine q WHERE q.ruled_at IS NULL
                      AND q.organization_id = h.organization_id
                      AND q.command ->> 'call_id' = h.call_id::text))
FROM hold h LEFT JOIN node n ON n.id = h.node_id
WHERE h.organization_id = %(organization_id)s

-- name: read_days
-- Days of 24 hours, counted back from now.
SELECT greatest(0, floor(extract(epoch FROM %(now)s - hour) / 86400))::int, sum(charge_nanos)::bigint,
    sum(calls)::bigint, sum(input_tokens + output_tokens)::bigint
FROM rollup_hour
WHERE organization_id = %(organization_id)s AND hour > %(now)s - make_interval(days => %(days)s + 1)
GROUP BY 1 ORDER BY 1

-- name: read_spenders
SELECT s.key_id, k.name, k.prefix, p.name, s.model, s.charge, s.calls, s.tokens, s.before_charge,
    s.before_calls, s.before_tokens
FROM (
    SELECT key_id, project_id, model,
        coalesce(sum(charge_nanos) FILTER (WHERE recent), 0)::bigint AS charge,
        coalesce(sum(calls) FILTER (WHERE recent), 0)::bigint AS calls,
        coalesce(sum(input_tokens + output_tokens) FILTER (WHERE recent), 0)::bigint AS tokens,
        coalesce(sum(charge_nanos) FILTER (WHERE NOT recent), 0)::bigint AS before_charge,
        coalesce(sum(calls) FILTER (WHERE NOT recent), 0)::bigint AS before_calls,
        coalesce(sum(input_tokens + output_tokens) FILTER (WHERE NOT recent), 0)::bigint
            AS before_tokens
    FROM (SELECT *, hour > %(now)s::timestamptz - interval '1 day' AS recent FROM rollup_hour
          WHERE organization_id = %(organization_id)s
            AND hour > %(now)s - make_interval(days => %(days)s + 1)) AS r
    GROUP BY key_id, project_id, model
) AS s
LEFT JOIN api_key k ON k.id = s.key_id
LEFT JOIN project p ON p.id = s.project_id
WHERE s.calls > 0 ORDER BY s.charge DESC, s.key_id, s.model LIMIT %(limit)s

-- name: read_retries
SELECT count(*) FILTER (WHERE c.retry_count > 0), count(*)
FROM (SELECT retry_count, admitted_at FROM call WHERE organization_id = %(organization_id)s
      ORDER BY id DESC LIMIT %(scanned)s) AS c
WHERE c.admitted_at > %(now)s::timestamptz - interval '1 day'

-- name: read_quarantine
SELECT count(*) OVER (), at, id, command_kind, error FROM quarantine
WHERE organization_id = %s AND ruled_at IS NULL ORDER BY id LIMIT 1

-- name: read_neighbours
-- Organisations with credit that a member of this one is a member of too; where this one has no
-- members at all, the others of a small installation, which has one owner.
WITH known AS (
    SELECT x.organization_id, array_agg(u.email ORDER BY u.email) AS members
    FROM member m
    JOIN member x ON x.user_id = m.user_id AND x.organization_id <> m.organization_id
    JOIN console_user u ON u.id = m.user_id
    WHERE m.organization_id = %(organization_id)s
    GROUP BY x.organization_id
), others AS (
    SELECT organization_id, members FROM known
    UNION ALL
    SELECT id, '{}' FROM organization
    WHERE id <> %(organization_id)s
      AND NOT EXISTS (SELECT FROM member WHERE organization_id = %(organization_id)s)
      AND (SELECT count(*) FROM (SELECT FROM organization LIMIT %(small)s + 1) AS few) <= %(small)s
)
SELECT o.id, o.name, o.currency, w.available, t.members
FROM others t
JOIN organization o ON o.id = t.organization_id
CROSS JOIN LATERAL (
    SELECT (coalesce(sum(g.remaining_nanos - g.reserved_nanos - g.frozen_nanos), 0)
            - o.owed_nanos - o.unsecured_held_nanos)::bigint AS available
    FROM credit_grant g
    WHERE g.organization_id = o.id AND g.has_money AND g.state = 'open'
      AND g.effective_at <= %(now)s AND (g.expires_at IS NULL OR g.expires_at > %(now)s)
) AS w
WHERE o.active AND w.available > 0 AND o.id <> %(organization_id)s
ORDER BY w.available DESC, o.id LIMIT %(limit)s

-- name: read_exhausted
-- What operators were told of the last day: the newest of each account, few at an hour's pace.
SELECT DISTINCT ON (facts ->> 'account') facts ->> 'provider', facts ->> 'account', at
FROM (SELECT id, facts, at FROM outbox WHERE organization_id IS NULL
        AND kind = 'upstream_quota_exhausted' ORDER BY id DESC LIMIT %(limit)s) AS told
WHERE at > farebox_now() - interval '1 day'
ORDER BY facts ->> 'account', id DESC

-- name: read_installation
-- A gateway's last sign of life is told in engine time, like everything else.
SELECT d.sandbox, d.clock_offset <> '0', farebox_now(), clock_timestamp(),
    (SELECT count(*) FROM node WHERE seen_at > clock_timestamp() - %(silence)s::interval),
    (SELECT max(seen_at) + d.clock_offset FROM node),
    (SELECT coalesce(array_agg(name ORDER BY sequence), '{}') FROM provider
     WHERE removed_at IS NULL),
    (SELECT coalesce(array_agg(DISTINCT v.currency), '{}') FROM price_version v
     WHERE v.effective_at <= farebox_now() AND v.provider IN (
         SELECT price_list FROM provider WHERE removed_at IS NULL))
FROM deployment d
