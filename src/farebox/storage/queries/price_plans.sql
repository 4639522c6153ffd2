-- Price plans, their versions, and what a price under a plan stands for.

-- name: list
SELECT p.id, p.name, p.created_at,
       (SELECT count(*) FROM price_plan_version v WHERE v.plan_id = p.id),
       (SELECT count(*) FROM organization o WHERE o.plan_id = p.id)
FROM price_plan p
WHERE (%(id)s::uuid IS NULL OR p.id = %(id)s)
  AND (%(name)s::text IS NULL OR lower(p.name) = lower(%(name)s))
  AND (%(after)s::uuid IS NULL OR p.id > %(after)s)
ORDER BY p.id LIMIT %(limit)s

-- name: list_versions
SELECT v.id, v.plan_id, p.name, v.number, v.effective_at, v.terms::text
FROM price_plan_version v JOIN price_plan p ON p.id = v.plan_id
WHERE (%(plan_id)s::uuid IS NULL OR v.plan_id = %(plan_id)s)
ORDER BY v.plan_id, v.number

-- name: put_plan
INSERT INTO price_plan (id, name) VALUES (%(plan_id)s, %(name)s)
ON CONFLICT (id) DO UPDATE SET name = price_plan.name
RETURNING id

-- name: insert_version
INSERT INTO price_plan_version (id, plan_id, number, effective_at, terms)
SELECT %(id)s, %(plan_id)s, coalesce(max(number), 0) + 1, %(effective_at)s, %(terms)s::json
FROM price_plan_version WHERE plan_id = %(plan_id)s
RETURNING number

-- name: assign
UPDATE organization SET plan_id = %(plan_id)s WHERE id = %(organization_id)s RETURNING id

-- name: read_assignment
SELECT p.name FROM organization o LEFT JOIN price_plan p ON p.id = o.plan_id
WHERE o.id = %(organization_id)s

-- name: remember_planned
INSERT INTO planned_price (id, price_id, plan_version_id)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[])
ON CONFLICT DO NOTHING

-- name: load_planned
-- The book's row and the plan's version behind each price under a plan.
SELECT r.id, b.id, b.provider, b.model, b.lane, b.currency, b.effective_at, b.source,
       b.long_context_over, b.base_units, b.base_prices, b.long_units, b.long_prices,
       v.id, v.plan_id, p.name, v.number, v.effective_at, v.terms::text
FROM planned_price r
JOIN price_version b ON b.id = r.price_id
JOIN price_plan_version v ON v.id = r.plan_version_id
JOIN price_plan p ON p.id = v.plan_id
WHERE r.id = ANY(%s::uuid[])
