-- What a batch of the money engine reads and writes. Arrays come as text literals and are cast here,
-- so that a batch of any size is one statement each.

-- name: lock_organizations
-- The only lock; taken in the order of ids, before anything else is read.
SELECT id, currency, zone, active, floor_nanos, on_overrun, on_lapse, last_time, sequence,
       granted_nanos, owed_nanos, spent_nanos, reserved_nanos, unreserved_nanos, frozen_nanos,
       expired_nanos, refunded_nanos, unsecured_held_nanos, absorbed_nanos, plan_id, xmin::text
FROM organization WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE

-- name: check_one
-- Whether all is still as a batch was decided by: the organisation, the prices, the node's epoch and the
-- time. An organisation that the batch writes has been written before, if it was the version that is
-- remembered; that was the lock, so this later statement sees what came before it. One that it does
-- not write has to be that version still.
SELECT CASE WHEN o.xmin = coalesce($2::xid, x.mine) AND c.revision = $3::bigint
    AND ($4::uuid IS NULL OR n.epoch = $5::int)
    AND t.now BETWEEN $6::timestamptz AND $7::timestamptz
    THEN t.now ELSE farebox_not_as_remembered() END, x.mine::text
FROM (SELECT farebox_now() OFFSET 0) AS t (now)
CROSS JOIN (SELECT pg_current_xact_id_if_assigned()::xid) AS x (mine)
LEFT JOIN catalogue c ON true
LEFT JOIN organization o ON o.id = $1::uuid
LEFT JOIN node n ON n.id = $4::uuid

-- name: check_many
-- The same for several organisations and nodes.
SELECT CASE WHEN c.revision = $3::bigint
    AND NOT EXISTS (
        SELECT FROM unnest($1::uuid[], $2::xid[]) AS r (id, version)
        LEFT JOIN organization o ON o.id = r.id
        WHERE o.xmin IS NULL OR o.xmin IS DISTINCT FROM coalesce(r.version, x.mine))
    AND NOT EXISTS (
        SELECT FROM unnest($4::uuid[], $5::int[]) AS r (id, epoch)
        LEFT JOIN node n ON n.id = r.id WHERE n.epoch IS DISTINCT FROM r.epoch)
    AND t.now BETWEEN $6::timestamptz AND $7::timestamptz
    THEN t.now ELSE farebox_not_as_remembered() END, x.mine::text
FROM (SELECT farebox_now() OFFSET 0) AS t (now)
CROSS JOIN (SELECT pg_current_xact_id_if_assigned()::xid) AS x (mine)
LEFT JOIN catalogue c ON true

-- name: read_time
-- A later statement than the lock, so that its time is later too.
SELECT farebox_now(), c.revision, n.id, n.epoch, pg_current_xact_id()::xid::text
FROM catalogue c LEFT JOIN node n ON n.id = ANY($1::uuid[])

-- name: read_grants
SELECT id, organization_id, sequence, source, amount_nanos, remaining_nanos, reserved_nanos,
       frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at, expires_at, state,
       repays, reference
FROM credit_grant WHERE organization_id = ANY($1::uuid[]) AND has_money

-- name: read_named_grants
SELECT id, organization_id, sequence, source, amount_nanos, remaining_nanos, reserved_nanos,
       frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at, expires_at, state,
       repays, reference
FROM credit_grant WHERE id = ANY($1::uuid[]) AND NOT has_money

-- name: read_empty_grants
-- What a late answer may give money back to: grants it drew, and grants that repaid debt.
SELECT id, organization_id, sequence, source, amount_nanos, remaining_nanos, reserved_nanos,
       frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at, expires_at, state,
       repays, reference
FROM credit_grant WHERE NOT has_money
  AND (id = ANY($1::uuid[]) OR organization_id = ANY($2::uuid[]) AND repaid_nanos > 0)

-- name: read_limits
-- Of the scopes that new calls are counted under and of those that open holds have raised, and the
-- defaults of every kind and the allocations.
WITH named AS (
    SELECT organization_id, number FROM unnest($1::uuid[], $2::bigint[])
        AS t (organization_id, number)
    UNION
    SELECT h.organization_id, number FROM hold h, unnest(h.raised_scopes) AS t (number)
    WHERE h.call_id = ANY($3::uuid[])
)
SELECT s.organization_id, s.kind, s.ref, s.rules::text, s.windows
FROM named n
JOIN scope_limit s ON s.organization_id = n.organization_id AND s.number = n.number
WHERE NOT s.everywhere
UNION ALL
SELECT s.organization_id, s.kind, s.ref, s.rules::text, s.windows
FROM scope_limit s WHERE s.organization_id = ANY($4::uuid[]) AND s.everywhere

-- name: read_limits_of
-- Every scope of organisations whose zone changes, one more than may be counted again.
SELECT s.organization_id, s.kind, s.ref, s.rules::text, s.windows
FROM unnest($1::uuid[]) AS o (id), LATERAL (
    SELECT * FROM scope_limit l WHERE l.organization_id = o.id AND NOT l.everywhere
    ORDER BY l.number LIMIT 10001) AS s

-- name: read_keys
SELECT k.id, k.organization_id, k.project_id, k.expires_at, k.revoked_at, p.archived_at
FROM api_key k JOIN project p ON p.id = k.project_id WHERE k.id = ANY($1::uuid[])

-- name: read_holds
SELECT call_id, organization_id, node_id, epoch, amount_nanos, unsecured_nanos, earmark_grants,
       earmark_nanos, raised, admitted_at, latest_end, project_id, key_id, feature, environment,
       model, lane, endpoint, fingerprint, output_limit, tokens, user_ref, run_ref, tags, steps,
       progress
FROM hold WHERE call_id = ANY($1::uuid[])

-- name: read_holds_of
SELECT call_id, organization_id, node_id, epoch, amount_nanos, unsecured_nanos, earmark_grants,
       earmark_nanos, raised, admitted_at, latest_end, project_id, key_id, feature, environment,
       model, lane, endpoint, fingerprint, output_limit, tokens, user_ref, run_ref, tags, steps,
       progress
FROM hold WHERE organization_id = ANY($1::uuid[])

-- name: read_closed
SELECT id, organization_id, sequence, state, held_nanos, charge_nanos, absorbed_nanos, owed_nanos,
       cost_nanos, late_charge_nanos, late_absorbed_nanos, draw_grants, draw_nanos, admitted_at,
       project_id, key_id, feature, environment, model, lane, endpoint, input_tokens, cached_tokens,
       cache_write_tokens, output_tokens, reasoning_tokens, admit_fingerprint, settle_fingerprint,
       user_ref, run_ref, tags
FROM call WHERE id = ANY($1::uuid[])

-- name: read_money_commands
SELECT organization_id, id, fingerprint FROM money_command WHERE id = ANY($1::uuid[])

-- name: read_used
-- What the calls of a scope, admitted in a window, have used: money, tokens and calls. Whole hours
-- come from the rollup where it knows the scope; $4 is the first of them, and where it does not,
-- the window's end, so that every call is read by itself, and dropped ones by what was kept of them.
SELECT coalesce(sum(u.money), 0)::bigint, coalesce(sum(u.tokens), 0)::bigint,
       coalesce(sum(u.calls), 0)::bigint
FROM (
    SELECT charge_nanos, input_tokens + output_tokens, calls FROM rollup_hour
    WHERE organization_id = $1::uuid AND hour >= $4::timestamptz AND hour < $5::timestamptz
      AND CASE $2::text WHEN 'project' THEN project_id::text = $3::text
          WHEN 'key' THEN key_id::text = $3::text WHEN 'feature' THEN feature = $3::text
          WHEN 'environment' THEN environment = $3::text ELSE true END
      AND ($6::text IN ('', model) AND starts_with(model, $7::text))
    UNION ALL
    SELECT charge_nanos, input_tokens + output_tokens, 1 FROM call
    WHERE organization_id = $1::uuid AND admitted_at >= $8::timestamptz
      AND admitted_at < least($4::timestamptz, $5::timestamptz) AND ended_at >= $8::timestamptz
      AND CASE $2::text WHEN 'project' THEN project_id::text = $3::text
          WHEN 'key' THEN key_id::text = $3::text WHEN 'feature' THEN feature = $3::text
          WHEN 'environment' THEN environment = $3::text WHEN 'user' THEN user_ref = $3::text
          WHEN 'run' THEN run_ref = $3::text OR starts_with(run_ref, $3::text || '/')
          WHEN 'tag' THEN tags ->> split_part($3::text, '=', 1)
              = substr($3::text, strpos($3::text, '=') + 1)
          ELSE true END
      AND ($6::text IN ('', model) AND starts_with(model, $7::text))
    UNION ALL
    SELECT money, tokens, calls FROM dropped_use
    WHERE organization_id = $1::uuid AND kind = $2::text AND since >= $8::timestamptz
      AND since < least($4::timestamptz, $5::timestamptz)
      AND (ref = $3::text OR $2::text = 'run' AND starts_with(ref, $3::text || '/'))
      AND ($6::text IN ('', model) AND starts_with(model, $7::text))
) AS u (money, tokens, calls)

-- name: write_organizations
-- Of a batch that was not read under the lock this takes it, of the versions that are remembered.
UPDATE organization o SET
    active = t.active, floor_nanos = t.floor_nanos, last_time = t.last_time, sequence = t.sequence,
    granted_nanos = t.granted, owed_nanos = t.owed, spent_nanos = t.spent,
    reserved_nanos = t.reserved, unreserved_nanos = t.unreserved, frozen_nanos = t.frozen,
    expired_nanos = t.expired, refunded_nanos = t.refunded, unsecured_held_nanos = t.unsecured,
    absorbed_nanos = t.absorbed, zone = t.zone
FROM unnest($1::uuid[], $2::boolean[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
            $13::bigint[], $14::bigint[], $15::bigint[], $16::text[], $17::xid[])
    AS t (id, active, floor_nanos, last_time, sequence, granted, owed, spent, reserved, unreserved,
          frozen, expired, refunded, unsecured, absorbed, zone, version)
WHERE o.id = t.id AND (t.version IS NULL OR o.xmin = t.version)

-- name: write_grants
UPDATE credit_grant g SET
    remaining_nanos = t.remaining, reserved_nanos = t.reserved, frozen_nanos = t.frozen,
    repaid_nanos = t.repaid, expired_nanos = t.expired, refunded_nanos = t.refunded,
    state = t.state, repays = t.repays, has_money = t.remaining > 0
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::text[], $9::boolean[])
    AS t (id, remaining, reserved, frozen, repaid, expired, refunded, state, repays)
WHERE g.id = t.id

-- name: insert_grants
INSERT INTO credit_grant (id, organization_id, sequence, source, amount_nanos, remaining_nanos,
    reserved_nanos, frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at,
    expires_at, state, repays, reference, has_money)
SELECT t.*, t.remaining > 0
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
            $12::timestamptz[], $13::timestamptz[], $14::text[], $15::boolean[], $16::text[])
    AS t (id, organization_id, sequence, source, amount, remaining, reserved, frozen, repaid,
          expired, refunded, effective_at, expires_at, state, repays, reference)

-- name: forget_scopes
DELETE FROM scope_limit s USING unnest($1::uuid[], $2::bigint[]) AS t (organization_id, number)
WHERE s.organization_id = t.organization_id AND s.number = t.number

-- name: write_limits
INSERT INTO scope_limit (organization_id, number, kind, ref, everywhere, rules, windows)
SELECT t.organization_id, t.number, t.kind, t.ref, t.everywhere, t.rules::json, t.windows::bigint[]
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[])
    AS t (organization_id, number, kind, ref, everywhere, rules, windows)
ON CONFLICT (organization_id, number) DO UPDATE SET
    everywhere = excluded.everywhere, rules = excluded.rules, windows = excluded.windows

-- name: write_counters
UPDATE scope_limit s SET windows = t.windows::bigint[]
FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS t (organization_id, number, windows)
WHERE s.organization_id = t.organization_id AND s.number = t.number

-- name: insert_holds
INSERT INTO hold (call_id, organization_id, node_id, epoch, amount_nanos, unsecured_nanos,
    earmark_grants, earmark_nanos, raised_scopes, raised, admitted_at, latest_end, project_id,
    key_id, feature, environment, model, lane, endpoint, fingerprint, output_limit, tokens,
    user_ref, run_ref, priority, tags, client_request_id, retry_count, streamed, price_id,
    upstream_account_id, ceiling, available_before_nanos, limit_figures)
SELECT t.call_id, t.organization_id, t.node_id, t.epoch, t.amount, t.unsecured,
    t.earmark_grants::uuid[], t.earmark_nanos::bigint[], t.raised_scopes::bigint[],
    t.raised::bigint[], t.admitted_at, t.latest_end, t.project_id, t.key_id, t.feature,
    t.environment, t.model, t.lane, t.endpoint, decode(t.fingerprint, 'hex'), t.output_limit,
    t.tokens, t.user_ref, t.run_ref, t.priority, t.tags::jsonb, t.client_request_id, t.retry_count,
    t.streamed, t.price_id, t.upstream_account_id, t.ceiling::bigint[], t.available_before,
    t.limit_figures::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::bigint[], $6::bigint[], $7::text[],
            $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[],
            $13::uuid[], $14::uuid[], $15::text[], $16::text[], $17::text[], $18::text[],
            $19::text[], $20::text[], $21::bigint[], $22::bigint[], $23::text[], $24::text[],
            $25::text[], $26::text[], $27::text[], $28::int[], $29::boolean[], $30::uuid[],
            $31::uuid[], $32::text[], $33::bigint[], $34::text[])
    AS t (call_id, organization_id, node_id, epoch, amount, unsecured, earmark_grants,
          earmark_nanos, raised_scopes, raised, admitted_at, latest_end, project_id, key_id, feature,
          environment, model, lane, endpoint, fingerprint, output_limit, tokens, user_ref, run_ref,
          priority, tags, client_request_id, retry_count, streamed, price_id, upstream_account_id,
          ceiling, available_before, limit_figures)

-- name: write_holds
UPDATE hold h SET
    amount_nanos = t.amount, unsecured_nanos = t.unsecured,
    earmark_grants = t.earmark_grants::uuid[], earmark_nanos = t.earmark_nanos::bigint[],
    raised_scopes = t.raised_scopes::bigint[], raised = t.raised::bigint[], tokens = t.tokens,
    steps = t.steps, progress = t.progress::bigint[]
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::bigint[], $9::int[], $10::text[])
    AS t (call_id, amount, unsecured, earmark_grants, earmark_nanos, raised_scopes, raised, tokens,
          steps, progress)
WHERE h.call_id = t.call_id

-- name: close_holds
-- An open hold becomes a call in one statement; what admission recorded never leaves the server.
WITH ended AS (
    DELETE FROM hold h
    USING unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[],
            $6::bigint[], $7::int[], $8::text[], $9::boolean[], $10::bigint[], $11::bigint[],
            $12::bigint[], $13::bigint[], $14::bigint[], $15::uuid[], $16::bigint[], $17::bigint[],
            $18::bigint[], $19::bigint[], $20::bigint[], $21::text[], $22::text[], $23::text[],
            $24::text[], $25::text[], $26::text[], $27::text[])
    AS t (call_id, sequence, state, lane, ended_at, latency_ms, http_status, reason, estimated,
          held, charge, absorbed, owed, cost, price_id, input_tokens, cached_tokens,
          cache_write_tokens, output_tokens, reasoning_tokens, line_units, line_quantities,
          line_prices, line_nanos, draw_grants, draw_nanos, fingerprint)
    WHERE h.call_id = t.call_id
    RETURNING h.call_id, h.organization_id, h.project_id, h.key_id, t.sequence, t.state, h.feature,
        h.environment, h.user_ref, h.run_ref, h.priority, h.tags, h.client_request_id,
        h.retry_count, h.model, t.lane, h.endpoint, h.streamed, h.admitted_at, t.ended_at,
        t.latency_ms, t.http_status, t.reason, t.estimated, t.held, t.charge, t.absorbed, t.owed,
        t.cost, h.upstream_account_id, coalesce(t.price_id, h.price_id), t.input_tokens,
        t.cached_tokens, t.cache_write_tokens, t.output_tokens, t.reasoning_tokens,
        t.line_units::text[], t.line_quantities::bigint[], t.line_prices::bigint[],
        t.line_nanos::bigint[], t.draw_grants::uuid[], t.draw_nanos::bigint[], h.output_limit,
        h.ceiling, h.available_before_nanos, h.limit_figures, h.fingerprint,
        decode(t.fingerprint, 'hex')
)
INSERT INTO call (id, organization_id, project_id, key_id, sequence, state, feature, environment,
    user_ref, run_ref, priority, tags, client_request_id, retry_count, model, lane, endpoint,
    streamed, admitted_at, ended_at, latency_ms, http_status, reason, estimated, held_nanos,
    charge_nanos, absorbed_nanos, owed_nanos, cost_nanos, upstream_account_id, price_id,
    input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, line_units,
    line_quantities, line_prices, line_nanos, draw_grants, draw_nanos, output_limit,
    ceiling, available_before_nanos, limit_figures, admit_fingerprint, settle_fingerprint)
SELECT * FROM ended

-- name: write_late
UPDATE call c SET
    state = t.state, charge_nanos = t.charge, absorbed_nanos = t.absorbed, owed_nanos = t.owed,
    cost_nanos = t.cost, late_charge_nanos = t.late_charge, late_absorbed_nanos = t.late_absorbed,
    estimated = t.estimated, reason = t.reason, input_tokens = t.input_tokens,
    cached_tokens = t.cached_tokens, cache_write_tokens = t.cache_write_tokens,
    output_tokens = t.output_tokens, reasoning_tokens = t.reasoning_tokens,
    line_units = t.line_units::text[], line_quantities = t.line_quantities::bigint[],
    line_prices = t.line_prices::bigint[], line_nanos = t.line_nanos::bigint[],
    draw_grants = t.draw_grants::uuid[], draw_nanos = t.draw_nanos::bigint[],
    settle_fingerprint = decode(t.fingerprint, 'hex'), lane = t.lane,
    price_id = coalesce(t.price_id, c.price_id), http_status = t.http_status,
    latency_ms = t.latency_ms
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::boolean[], $10::text[], $11::bigint[], $12::bigint[],
            $13::bigint[], $14::bigint[], $15::bigint[], $16::text[], $17::text[], $18::text[],
            $19::text[], $20::text[], $21::text[], $22::text[], $23::text[],
            $24::uuid[], $25::int[], $26::bigint[])
    AS t (id, state, charge, absorbed, owed, cost, late_charge, late_absorbed, estimated, reason,
          input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
          line_units, line_quantities, line_prices, line_nanos, draw_grants, draw_nanos,
          fingerprint, lane, price_id, http_status, latency_ms)
WHERE c.id = t.id

-- name: add_rollups
INSERT INTO rollup_hour AS r (organization_id, hour, bucket, project_id, key_id, feature,
    environment, model, lane, endpoint, calls, charge_nanos, absorbed_nanos, cost_nanos,
    input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[],
            $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[],
            $19::bigint[])
ON CONFLICT (organization_id, hour, bucket) DO UPDATE SET
    calls = r.calls + excluded.calls,
    charge_nanos = r.charge_nanos + excluded.charge_nanos,
    absorbed_nanos = r.absorbed_nanos + excluded.absorbed_nanos,
    cost_nanos = r.cost_nanos + excluded.cost_nanos,
    input_tokens = r.input_tokens + excluded.input_tokens,
    cached_tokens = r.cached_tokens + excluded.cached_tokens,
    cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = r.output_tokens + excluded.output_tokens,
    reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens

-- name: insert_postings
-- The time is asked for once, not for each row.
INSERT INTO posting (organization_id, kind, at, booked_at, accounts, amounts_nanos, grant_id,
    call_id, first_sequence, last_sequence, note)
SELECT t.organization_id, t.kind, t.at, (SELECT farebox_now()), t.accounts::text[],
    t.amounts::bigint[], t.grant_id, t.call_id, t.first_sequence, t.last_sequence, t.note
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::uuid[],
            $7::uuid[], $8::bigint[], $9::bigint[], $10::text[])
    AS t (organization_id, kind, at, accounts, amounts, grant_id, call_id, first_sequence,
          last_sequence, note)

-- name: insert_events
INSERT INTO outbox (organization_id, kind, at, facts)
SELECT t.organization_id, t.kind, t.at, t.facts::jsonb
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[])
    AS t (organization_id, kind, at, facts)

-- name: insert_money_commands
INSERT INTO money_command (id, organization_id, fingerprint)
SELECT t.id, t.organization_id, decode(t.fingerprint, 'hex')
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS t (id, organization_id, fingerprint)

-- name: insert_quarantine
-- Once, however often the same command comes again; word is left where a row was made.
WITH aside AS (
    INSERT INTO quarantine (organization_id, command_kind, command, error)
    SELECT %(organization_id)s, %(kind)s, %(command)s::jsonb, %(error)s
    WHERE NOT EXISTS (
        SELECT FROM quarantine WHERE organization_id = %(organization_id)s
            AND command = %(command)s::jsonb AND ruled_at IS NULL)
    RETURNING organization_id
)
INSERT INTO outbox (organization_id, kind, at, facts)
SELECT organization_id, 'quarantined', farebox_now(), %(facts)s::jsonb FROM aside
