-- Limits of every scope: projects, keys, users, features, environments, tags and runs.
--
-- A scope and a rule are known by numbers that every process computes alike (ledger/scopes.py,
-- ledger/limits.py); a hold names the counters it raised by them. What was set before, monthly
-- limits of organisations, is carried over with its counters.
--
-- And: the server reads every CHECK of a table anew for each statement that writes to it, a sixth of
-- the time of a single call. What says something about one column alone becomes a domain, which is
-- read once per session; what sums columns up stays; what `books check` and the types say anyway goes.

CREATE DOMAIN nanos AS bigint CHECK (VALUE >= 0);
COMMENT ON DOMAIN nanos IS 'An amount in billionths of the major unit, never below zero.';
CREATE DOMAIN positive_nanos AS bigint CHECK (VALUE > 0);
CREATE DOMAIN currency_code AS text CHECK (VALUE ~ '^[A-Z]{3}$');
CREATE DOMAIN billing_mode AS text CHECK (VALUE IN ('prepaid'));
CREATE DOMAIN on_overrun AS text CHECK (VALUE IN ('absorb', 'owe'));
CREATE DOMAIN on_lapse AS text CHECK (VALUE IN ('metered', 'nothing', 'ceiling'));
CREATE DOMAIN grant_source AS text CHECK (VALUE IN (
    'free', 'promo', 'grant', 'adjustment', 'business', 'contract', 'purchased'));
CREATE DOMAIN grant_state AS text CHECK (VALUE IN ('open', 'frozen', 'lost'));
CREATE DOMAIN call_state AS text CHECK (VALUE IN ('settled', 'released', 'lapsed', 'late'));
CREATE DOMAIN scope_kind AS text CHECK (VALUE IN (
    'organization', 'project', 'key', 'user', 'feature', 'environment', 'tag', 'run'));

DO $$
DECLARE
    found record;
BEGIN
    -- Partitions have their own copies of what their parent was made with.
    FOR found IN
        SELECT c.conrelid::regclass AS place, c.conname AS name
        FROM pg_constraint c
        WHERE c.contype = 'c' AND c.conname NOT IN ('totals_agree', 'totals_not_negative',
                'reserved_within_remaining', 'parts_not_negative')
            AND (c.conrelid IN ('organization'::regclass, 'credit_grant'::regclass,
                    'hold'::regclass, 'posting'::regclass, 'call'::regclass)
                OR c.conrelid IN (SELECT inhrelid FROM pg_inherits
                    WHERE inhparent = 'call'::regclass))
        ORDER BY c.coninhcount
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', found.place, found.name);
    END LOOP;
END $$;

ALTER TABLE organization
    ALTER currency TYPE currency_code, ALTER billing_mode TYPE billing_mode,
    ALTER floor_nanos TYPE nanos, ALTER on_overrun TYPE on_overrun, ALTER on_lapse TYPE on_lapse;
ALTER TABLE credit_grant
    ALTER source TYPE grant_source, ALTER state TYPE grant_state,
    ALTER amount_nanos TYPE positive_nanos,
    DROP CONSTRAINT parts_not_negative,
    ADD CONSTRAINT parts_not_negative CHECK (
        least(repaid_nanos, expired_nanos, refunded_nanos,
              amount_nanos - remaining_nanos - repaid_nanos - expired_nanos - refunded_nanos) >= 0
        AND (expires_at > effective_at) IS NOT FALSE);
ALTER TABLE hold ALTER amount_nanos TYPE nanos, ALTER unsecured_nanos TYPE nanos;
ALTER TABLE call
    ALTER state TYPE call_state, ALTER charge_nanos TYPE nanos, ALTER absorbed_nanos TYPE nanos,
    ALTER owed_nanos TYPE nanos;

CREATE FUNCTION farebox_number(VARIADIC parts text[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT (('x' || encode(substr(sha256(
        string_agg(convert_to(part, 'UTF8'), '\x00'::bytea ORDER BY place)), 1, 8), 'hex')
        )::bit(64) >> 1)::bigint
    FROM unnest(parts) WITH ORDINALITY AS p (part, place)
$$;
COMMENT ON FUNCTION farebox_number IS 'The number of a scope (kind, ref) or of a rule (measure,
period, effect, models): as in ledger/scopes.py and ledger/limits.py.';

ALTER TABLE scope_limit RENAME TO scope_limit_before;
ALTER TABLE scope_limit_before RENAME CONSTRAINT scope_limit_pkey TO scope_limit_before_pkey;

CREATE TABLE scope_limit (
    organization_id uuid NOT NULL REFERENCES organization,
    number bigint NOT NULL,
    kind scope_kind NOT NULL,
    ref text NOT NULL,
    everywhere boolean NOT NULL DEFAULT false,
    rules json NOT NULL,
    windows bigint[] NOT NULL,
    PRIMARY KEY (organization_id, number)
) WITH (fillfactor = 50);
CREATE INDEX scope_limit_everywhere ON scope_limit (organization_id) WHERE everywhere;
COMMENT ON TABLE scope_limit IS 'One row per scope that has a limit, with all its windows.';
COMMENT ON COLUMN scope_limit.ref IS 'An id as 32 hex digits, or a name; empty for the defaults.';
COMMENT ON COLUMN scope_limit.everywhere IS
    'Defaults and allocations: every call of the organisation must know them.';
COMMENT ON COLUMN scope_limit.windows IS
    'Six each: rule, start and end in microseconds since 1970, used, held, threshold told.';

INSERT INTO scope_limit (organization_id, number, kind, ref, rules, windows)
SELECT b.organization_id, farebox_number('organization', replace(b.scope_id::text, '-', '')),
    'organization', replace(b.scope_id::text, '-', ''),
    json_build_array(json_build_object('maximum', (b.rules ->> 'month')::bigint)),
    coalesce((
        SELECT array_agg(f.number ORDER BY w.place, f.place)
        FROM jsonb_array_elements(b.windows -> 'month') WITH ORDINALITY AS w (value, place),
            unnest(ARRAY[
                farebox_number('money', 'month', 'hard', ''),
                (extract(epoch FROM (w.value ->> 'start')::timestamptz) * 1000000)::bigint,
                (extract(epoch FROM (w.value ->> 'end')::timestamptz) * 1000000)::bigint,
                (w.value ->> 'used')::bigint, (w.value ->> 'held')::bigint, 0])
                WITH ORDINALITY AS f (number, place)), '{}')
FROM scope_limit_before b WHERE b.rules ? 'month';
DROP TABLE scope_limit_before;

CREATE VIEW scope_window AS
    SELECT s.organization_id, s.kind, s.ref, s.windows[i] AS rule,
           to_timestamp(s.windows[i + 1] / 1000000.0) AS starts_at,
           to_timestamp(s.windows[i + 2] / 1000000.0) AS ends_at,
           s.windows[i + 3] AS used, s.windows[i + 4] AS held, s.windows[i + 5] AS told
    FROM scope_limit s, generate_series(1, cardinality(s.windows), 6) AS i;

ALTER TABLE hold RENAME COLUMN raised TO raised_before;
ALTER TABLE hold
    ADD COLUMN raised_scopes bigint[],
    ADD COLUMN raised bigint[],
    ADD COLUMN tokens bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN hold.raised_scopes IS 'Numbers of the scopes whose counters this hold raised.';
COMMENT ON COLUMN hold.raised IS 'Four each: scope, rule, start of the window, amount.';
UPDATE hold h SET raised_scopes = r.scopes, raised = r.flat FROM (
    SELECT b.call_id, array_agg(DISTINCT farebox_number('organization', n.ref)) AS scopes,
        array_agg(f.number ORDER BY x.place, f.place) AS flat
    FROM hold b, jsonb_array_elements(b.raised_before) WITH ORDINALITY AS x (value, place),
        LATERAL (SELECT replace(x.value ->> 1, '-', '') AS ref) AS n,
        unnest(ARRAY[
            farebox_number('organization', n.ref),
            farebox_number('money', 'month', 'hard', ''),
            (extract(epoch FROM (x.value ->> 3)::timestamptz) * 1000000)::bigint,
            (x.value ->> 4)::bigint]) WITH ORDINALITY AS f (number, place)
    GROUP BY b.call_id) AS r
WHERE h.call_id = r.call_id;
ALTER TABLE hold DROP COLUMN raised_before;
ALTER TABLE call DROP COLUMN raised;
