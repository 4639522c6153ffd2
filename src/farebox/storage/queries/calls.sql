-- Calls one by one and in pages: closed calls, open holds and refusals.

-- name: closed_call
SELECT c.id, 0, c.state, c.charge_nanos, c.absorbed_nanos, c.held_nanos, c.estimated, c.model,
    c.lane, c.endpoint, c.project_id, p.name, c.key_id, k.name, c.user_ref, c.feature,
    c.environment, c.run_ref, c.input_tokens, c.cached_tokens, c.cache_write_tokens,
    c.output_tokens, c.reasoning_tokens, c.admitted_at, c.ended_at, c.latency_ms, c.http_status,
    c.reason, 1::bigint, c.organization_id, o.name, o.currency, k.prefix, c.streamed, c.priority,
    c.tags, c.client_request_id, c.retry_count, c.sequence, c.owed_nanos, c.cost_nanos,
    c.late_charge_nanos, c.late_absorbed_nanos, c.available_before_nanos, c.ceiling,
    c.output_limit, c.limit_figures, c.draw_grants, c.draw_nanos, c.line_units, c.line_quantities,
    c.line_prices, c.line_nanos, c.price_id, a.name
FROM call c
LEFT JOIN organization o ON o.id = c.organization_id
LEFT JOIN project p ON p.id = c.project_id
LEFT JOIN api_key k ON k.id = c.key_id
LEFT JOIN upstream_account a ON a.id = c.upstream_account_id
WHERE c.id = %(id)s

-- name: open_call
SELECT h.call_id, 1, 'open', 0::bigint, 0::bigint, h.amount_nanos, false, h.model, h.lane,
    h.endpoint, h.project_id, p.name, h.key_id, k.name, h.user_ref, h.feature, h.environment,
    h.run_ref, coalesce(h.progress[3], 0), 0::bigint, 0::bigint, coalesce(h.progress[4], 0),
    0::bigint, h.admitted_at, NULL::timestamptz, NULL::bigint, NULL::int, '', 1::bigint,
    h.organization_id, o.name, o.currency, k.prefix, h.streamed, h.priority, h.tags,
    h.client_request_id, h.retry_count, h.available_before_nanos, h.ceiling, h.output_limit,
    h.limit_figures, h.earmark_grants, h.earmark_nanos, h.unsecured_nanos, h.latest_end,
    h.node_id, h.epoch, h.progress, h.price_id, a.name
FROM hold h
LEFT JOIN organization o ON o.id = h.organization_id
LEFT JOIN project p ON p.id = h.project_id
LEFT JOIN api_key k ON k.id = h.key_id
LEFT JOIN upstream_account a ON a.id = h.upstream_account_id
WHERE h.call_id = %(id)s

-- name: refused_call
SELECT r.id, 2, 'refused', 0::bigint, 0::bigint, r.needed_nanos, false, r.model, '', r.endpoint,
    r.project_id, p.name, r.key_id, k.name, r.user_ref, r.feature, '', '', 0::bigint, 0::bigint,
    0::bigint, 0::bigint, 0::bigint, r.refused_at, NULL::timestamptz, NULL::bigint, NULL::int,
    r.code, r.times, r.organization_id, o.name, o.currency, k.prefix, r.message, r.available_nanos,
    r.held_nanos, r.limit_figures
FROM refusal r
LEFT JOIN organization o ON o.id = r.organization_id
LEFT JOIN project p ON p.id = r.project_id
LEFT JOIN api_key k ON k.id = r.key_id
WHERE r.id = %(id)s

-- name: attempts
-- Tries of one request follow each other within minutes: their ids lie near each other.
SELECT id, state, charge_nanos, retry_count FROM call
WHERE organization_id = %(organization_id)s AND client_request_id = %(client_request_id)s
  AND id >= farebox_uuid_floor(%(at)s::timestamptz - interval '10 minutes')
  AND id < farebox_uuid_floor(%(at)s::timestamptz + interval '10 minutes')
ORDER BY id LIMIT %(limit)s

-- name: kept_from
-- Nothing of before is kept any more; NULL: everything is.
SELECT max(month + interval '1 month') AT TIME ZONE 'UTC' FROM dropped_month WHERE parent = 'call'

-- name: price_version
SELECT id, provider, model, lane, currency, effective_at, source, long_context_over
FROM price_version WHERE id = %(id)s

-- name: grants
SELECT id, source, reference, expires_at FROM credit_grant WHERE id = ANY(%(ids)s)

-- name: batch_posting
-- The posting of the batch that closed a call.
SELECT id, kind, at, accounts, amounts_nanos, grant_id, first_sequence, last_sequence
FROM posting
WHERE organization_id = %(organization_id)s AND kind = 'calls' AND last_sequence >= %(sequence)s
ORDER BY last_sequence LIMIT 1

-- name: call_postings
-- Postings that a call has of its own: a late change, breakage of what it gave back.
SELECT id, kind, at, accounts, amounts_nanos, grant_id, first_sequence, last_sequence
FROM posting WHERE organization_id = %(organization_id)s AND call_id = %(id)s
ORDER BY id LIMIT %(limit)s

-- name: call_page
-- Each of the three is read backwards from the cursor along its index, then merged.
WITH merged AS (
    (SELECT id, 0 AS turn, state AS status, charge_nanos, absorbed_nanos, held_nanos, estimated,
        model, lane, endpoint, project_id, key_id, user_ref, feature, environment, run_ref,
        input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        admitted_at AS at, ended_at, latency_ms, http_status, reason, 1::bigint AS times
     FROM call
     WHERE organization_id = %(organization_id)s AND id <= %(id)s
       AND (id < %(id)s OR 0 > %(turn)s)
     ORDER BY id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT call_id, 1, 'open', 0, 0, amount_nanos, false, model, lane, endpoint, project_id,
        key_id, user_ref, feature, environment, run_ref, coalesce(progress[3], 0), 0, 0,
        coalesce(progress[4], 0), 0, admitted_at, NULL, NULL, NULL, '', 1
     FROM hold
     WHERE organization_id = %(organization_id)s AND call_id <= %(id)s
       AND (call_id < %(id)s OR 1 > %(turn)s)
     ORDER BY call_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT id, 2, 'refused', 0, 0, needed_nanos, false, model, '', endpoint, project_id, key_id,
        user_ref, feature, '', '', 0, 0, 0, 0, 0, refused_at, NULL, NULL, NULL, code, times
     FROM refusal
     WHERE organization_id = %(organization_id)s AND id <= %(id)s
       AND (id < %(id)s OR 2 > %(turn)s)
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
