-- What the balance, the list of grants, the limits and the history of an organisation are made of.

-- name: read_organization
SELECT id, currency, zone, active, floor_nanos, on_overrun, on_lapse, last_time, sequence,
       granted_nanos, owed_nanos, spent_nanos, reserved_nanos, unreserved_nanos, frozen_nanos,
       expired_nanos, refunded_nanos, unsecured_held_nanos, absorbed_nanos, plan_id,
       farebox_now()
FROM organization WHERE id = %s

-- name: read_grants_with_money
SELECT id, organization_id, sequence, source, amount_nanos, remaining_nanos, reserved_nanos,
       frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at, expires_at, state,
       repays, reference
FROM credit_grant WHERE organization_id = %s AND has_money

-- name: list_grants
-- Newest first.
SELECT id, organization_id, sequence, source, amount_nanos, remaining_nanos, reserved_nanos,
       frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at, expires_at, state,
       repays, reference
FROM credit_grant
WHERE organization_id = %(organization_id)s
  AND (%(before)s::bigint IS NULL OR sequence < %(before)s)
ORDER BY sequence DESC LIMIT %(limit)s

-- name: find_grant
SELECT id, organization_id, sequence, source, amount_nanos, remaining_nanos, reserved_nanos,
       frozen_nanos, repaid_nanos, expired_nanos, refunded_nanos, effective_at, expires_at, state,
       repays, reference
FROM credit_grant WHERE id = %s

-- name: read_limits
-- Defaults of a kind (an empty reference) come before its scopes.
SELECT organization_id, kind, ref, rules::text, windows
FROM scope_limit WHERE organization_id = %s ORDER BY kind, ref

-- name: page_limits
-- In the order of scopes' numbers, each scope with all its rules.
SELECT organization_id, kind, ref, rules::text, windows, number FROM scope_limit
WHERE organization_id = %(organization_id)s AND number >= %(begin)s
  AND (%(numbers)s::bigint[] IS NULL OR number = ANY(%(numbers)s))
  AND (%(kind)s::text IS NULL OR kind::text = %(kind)s)
  AND (%(ref)s::text IS NULL OR ref = %(ref)s)
ORDER BY number LIMIT %(limit)s

-- name: read_everywhere
-- Defaults of every kind and allocations: what scopes have besides their own.
SELECT organization_id, kind, ref, rules::text, windows FROM scope_limit
WHERE organization_id = %s AND everywhere

-- name: scope_names
SELECT id, name FROM project
WHERE organization_id = %(organization_id)s AND id = ANY(%(projects)s::uuid[])
UNION ALL
SELECT id, name FROM api_key
WHERE organization_id = %(organization_id)s AND id = ANY(%(keys)s::uuid[])

-- name: list_postings
-- Newest first.
SELECT id, kind, at, booked_at, accounts, amounts_nanos, grant_id, call_id, first_sequence,
       last_sequence, note
FROM posting
WHERE organization_id = %(organization_id)s
  AND (%(before)s::bigint IS NULL OR id < %(before)s)
ORDER BY id DESC LIMIT %(limit)s
