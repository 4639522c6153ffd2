-- Prices, models and providers. Whoever writes takes the one row of catalogue first.

-- name: read_only_snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- name: read_revision
SELECT revision FROM catalogue

-- name: grow_revision
-- The lock of the catalogue and its new revision in one.
UPDATE catalogue SET revision = revision + 1 RETURNING revision

-- name: read_price_versions
SELECT id, provider, model, lane, currency, effective_at, source, long_context_over, base_units,
       base_prices, long_units, long_prices
FROM price_version ORDER BY sequence

-- name: read_models
SELECT provider, name, context_window, output_max, counts_o200k, image_tokens_max, aliases, patterns
FROM model

-- name: read_providers
SELECT p.id, p.name, p.kind, p.price_list, p.base_url, p.api_version, p.secret, p.account_id,
       a.name, p.created_at
FROM provider p JOIN upstream_account a ON a.id = p.account_id
WHERE p.removed_at IS NULL ORDER BY p.sequence

-- name: insert_price_versions
INSERT INTO price_version (id, provider, model, lane, currency, effective_at, source,
    long_context_over, base_units, base_prices, long_units, long_prices)
SELECT t.id, t.provider, t.model, t.lane, t.currency, t.effective_at, t.source,
    t.long_context_over, t.base_units::text[], t.base_prices::bigint[], t.long_units::text[],
    t.long_prices::bigint[]
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[],
            %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS t (id, provider, model, lane, currency, effective_at, source, long_context_over, base_units,
          base_prices, long_units, long_prices)
ON CONFLICT (id) DO NOTHING

-- name: write_models
INSERT INTO model (provider, name, context_window, output_max, counts_o200k, image_tokens_max,
    aliases, patterns)
SELECT t.provider, t.name, t.context_window, t.output_max, t.counts_o200k, t.image_tokens_max,
    t.aliases::text[], t.patterns::text[]
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::boolean[], %s::bigint[],
            %s::text[], %s::text[])
    AS t (provider, name, context_window, output_max, counts_o200k, image_tokens_max, aliases,
          patterns)
ON CONFLICT (provider, name) DO UPDATE SET
    context_window = excluded.context_window, output_max = excluded.output_max,
    counts_o200k = excluded.counts_o200k, image_tokens_max = excluded.image_tokens_max,
    aliases = excluded.aliases, patterns = excluded.patterns

-- name: use_account
-- The account of that name, made where it is new.
INSERT INTO upstream_account (id, name) VALUES (%(id)s, %(name)s)
ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id

-- name: insert_provider
-- A removed provider's name may be used again; its row comes back with the new settings.
INSERT INTO provider AS p (id, name, kind, price_list, base_url, api_version, secret, account_id)
VALUES (%(id)s, %(name)s, %(kind)s, %(price_list)s, %(base_url)s, %(api_version)s, %(secret)s,
    %(account_id)s)
ON CONFLICT (name) DO UPDATE SET
    kind = excluded.kind, price_list = excluded.price_list, base_url = excluded.base_url,
    api_version = excluded.api_version, secret = excluded.secret,
    account_id = excluded.account_id, removed_at = NULL
WHERE p.removed_at IS NOT NULL
RETURNING p.id, p.created_at

-- name: remove_provider
UPDATE provider SET removed_at = farebox_now(), secret = NULL
WHERE id = %s AND removed_at IS NULL

-- name: take_time
SELECT set_config('idle_in_transaction_session_timeout', '60s', true)
