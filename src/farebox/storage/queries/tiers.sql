-- Usage tiers and who stands in them.

-- name: list
SELECT id, currency, position, name, purchases_nanos, age_days, monthly_maximum_nanos,
       balance_maximum_nanos, recharge_maximum_nanos, rates::text
FROM usage_tier
WHERE (%(currency)s::text IS NULL OR currency = %(currency)s)
  AND (%(id)s::uuid IS NULL OR id = %(id)s)
ORDER BY currency, position

-- name: put
INSERT INTO usage_tier (id, currency, position, name, purchases_nanos, age_days,
    monthly_maximum_nanos, balance_maximum_nanos, recharge_maximum_nanos, rates)
VALUES (%(id)s, %(currency)s, %(position)s, %(name)s, %(purchases)s, %(age_days)s,
    %(monthly_maximum)s, %(balance_maximum)s, %(recharge_maximum)s, %(rates)s::json)
ON CONFLICT (id) DO UPDATE SET position = excluded.position, name = excluded.name,
    purchases_nanos = excluded.purchases_nanos, age_days = excluded.age_days,
    monthly_maximum_nanos = excluded.monthly_maximum_nanos,
    balance_maximum_nanos = excluded.balance_maximum_nanos,
    recharge_maximum_nanos = excluded.recharge_maximum_nanos, rates = excluded.rates
RETURNING id

-- name: remove
DELETE FROM usage_tier WHERE id = %s RETURNING id

-- name: facts
-- Purchased: what was paid for, less what was refunded; a lost dispute is no purchase.
SELECT o.id, o.name, o.currency, o.created_at, t.tier_id, coalesce(t.fixed, false), coalesce((
        SELECT sum(g.amount_nanos - g.refunded_nanos)::bigint FROM credit_grant g
        WHERE g.organization_id = o.id AND g.state <> 'lost'
          AND g.source IN ('purchased', 'business', 'contract')), 0)
FROM organization o LEFT JOIN organization_tier t ON t.organization_id = o.id
WHERE (%(id)s::uuid IS NULL OR o.id = %(id)s)
  AND (%(after)s::uuid IS NULL OR o.id > %(after)s)
ORDER BY o.id LIMIT %(limit)s

-- name: assign
INSERT INTO organization_tier (organization_id, tier_id, fixed)
VALUES (%(organization_id)s, %(tier_id)s, %(fixed)s)
ON CONFLICT (organization_id) DO UPDATE SET tier_id = excluded.tier_id, fixed = excluded.fixed,
    assigned_at = farebox_now()
RETURNING organization_id

-- name: unassign
DELETE FROM organization_tier WHERE organization_id = %(organization_id)s RETURNING organization_id

-- name: read_assignment
SELECT t.name, a.fixed FROM organization_tier a JOIN usage_tier t ON t.id = a.tier_id
WHERE a.organization_id = %(organization_id)s
