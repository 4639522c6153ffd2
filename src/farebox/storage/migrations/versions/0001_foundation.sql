-- The foundation: organisations, keys, grants, holds, calls, limits, journal, rollups, prices.
--
-- Rules that the tables keep (ENGINE.md):
-- * money is BIGINT nanodollars; every total of an organisation is checked against the others;
-- * the organisation's row is the only lock and guards every row of that organisation;
-- * organisation, grant and counter rows change all the time: room in the page, no index on it;
-- * a call's rows are partitioned by the month of the call's id, never by settle time.

-- Time ---------------------------------------------------------------------------------------

CREATE TABLE deployment (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sandbox boolean NOT NULL,
    clock_offset interval NOT NULL DEFAULT '0',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (sandbox OR clock_offset = '0')
);
COMMENT ON TABLE deployment IS 'What this installation is; the clock moves in sandbox only.';

CREATE FUNCTION farebox_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT clock_timestamp() + coalesce((SELECT clock_offset FROM deployment), '0')
$$;
COMMENT ON FUNCTION farebox_now IS 'The one door through which time enters (DESIGN.md decision 17).';

CREATE FUNCTION farebox_uuid_floor(instant timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;
COMMENT ON FUNCTION farebox_uuid_floor IS 'The smallest version 7 UUID of an instant.';

-- Tenancy ------------------------------------------------------------------------------------

CREATE TABLE organization (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    currency text NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    zone text NOT NULL DEFAULT 'UTC',
    billing_mode text NOT NULL DEFAULT 'prepaid' CHECK (billing_mode IN ('prepaid')),
    active boolean NOT NULL DEFAULT true,
    floor_nanos bigint NOT NULL DEFAULT 0 CHECK (floor_nanos >= 0),
    on_overrun text NOT NULL DEFAULT 'absorb' CHECK (on_overrun IN ('absorb', 'owe')),
    on_lapse text NOT NULL DEFAULT 'metered' CHECK (on_lapse IN ('metered', 'nothing', 'ceiling')),
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    last_time timestamptz NOT NULL DEFAULT farebox_now(),
    sequence bigint NOT NULL DEFAULT 0,
    granted_nanos bigint NOT NULL DEFAULT 0,
    owed_nanos bigint NOT NULL DEFAULT 0,
    spent_nanos bigint NOT NULL DEFAULT 0,
    reserved_nanos bigint NOT NULL DEFAULT 0,
    unreserved_nanos bigint NOT NULL DEFAULT 0,
    frozen_nanos bigint NOT NULL DEFAULT 0,
    expired_nanos bigint NOT NULL DEFAULT 0,
    refunded_nanos bigint NOT NULL DEFAULT 0,
    unsecured_held_nanos bigint NOT NULL DEFAULT 0,
    absorbed_nanos bigint NOT NULL DEFAULT 0,
    CONSTRAINT totals_agree CHECK (
        granted_nanos + owed_nanos = spent_nanos + reserved_nanos + unreserved_nanos
            + frozen_nanos + expired_nanos + refunded_nanos),
    CONSTRAINT totals_not_negative CHECK (
        least(granted_nanos, owed_nanos, spent_nanos, reserved_nanos, unreserved_nanos,
              frozen_nanos, expired_nanos, refunded_nanos, unsecured_held_nanos,
              absorbed_nanos) >= 0)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX organization_name ON organization (lower(name));

CREATE TABLE project (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    name text NOT NULL,
    environment text NOT NULL DEFAULT 'production',
    default_output_tokens integer CHECK (default_output_tokens > 0),
    slices boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    archived_at timestamptz
);
CREATE UNIQUE INDEX project_name ON project (organization_id, lower(name));

CREATE TABLE api_key (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    project_id uuid NOT NULL REFERENCES project,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_key_project ON api_key (project_id);
COMMENT ON COLUMN api_key.digest IS 'SHA-256 of the 256-bit secret; the secret itself is shown once.';

CREATE TABLE management_key (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    revoked_at timestamptz
);

CREATE TABLE console_user (
    id uuid PRIMARY KEY,
    email text NOT NULL,
    password_hash text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now()
);
CREATE UNIQUE INDEX console_user_email ON console_user (lower(email));

CREATE TABLE console_session (
    digest bytea PRIMARY KEY CHECK (length(digest) = 32),
    user_id uuid NOT NULL REFERENCES console_user ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX console_session_user ON console_session (user_id);

-- Providers and prices -----------------------------------------------------------------------

CREATE TABLE catalogue (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL DEFAULT 1
);
INSERT INTO catalogue DEFAULT VALUES;
COMMENT ON TABLE catalogue IS 'Grows with every change of prices, models or providers; an admission
rated with an older revision is refused and rated again.';

CREATE TABLE upstream_account (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT farebox_now()
);
COMMENT ON TABLE upstream_account IS 'Our own account at a provider: what its calls cost us.';

CREATE TABLE provider (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('openai', 'azure', 'simulated')),
    price_list text NOT NULL,
    base_url text NOT NULL,
    api_version text,
    secret bytea,
    account_id uuid NOT NULL REFERENCES upstream_account,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    removed_at timestamptz
);
COMMENT ON COLUMN provider.price_list IS 'The provider name under which price versions are looked up.';
COMMENT ON COLUMN provider.secret IS 'Encrypted with the key in FAREBOX_HOME.';

CREATE TABLE price_version (
    id uuid PRIMARY KEY,
    provider text NOT NULL,
    model text NOT NULL,
    lane text NOT NULL,
    currency text NOT NULL DEFAULT 'USD',
    effective_at timestamptz NOT NULL,
    source text NOT NULL,
    long_context_over bigint,
    base_units text[] NOT NULL,
    base_prices bigint[] NOT NULL,
    long_units text[] NOT NULL DEFAULT '{}',
    long_prices bigint[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    CHECK (cardinality(base_units) = cardinality(base_prices)),
    CHECK (cardinality(long_units) = cardinality(long_prices))
);
CREATE INDEX price_version_model ON price_version (provider, model, lane, effective_at);
COMMENT ON TABLE price_version IS 'Dated prices in nanodollars per million units; never edited.';

CREATE TABLE model (
    provider text NOT NULL,
    name text NOT NULL,
    context_window bigint,
    output_max bigint,
    counts_o200k boolean NOT NULL DEFAULT false,
    image_tokens_max bigint,
    aliases text[] NOT NULL DEFAULT '{}',
    patterns text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (provider, name)
);
COMMENT ON COLUMN model.patterns IS 'Regular expressions for names that cannot be listed.';

-- Money --------------------------------------------------------------------------------------

CREATE TABLE credit_grant (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    sequence bigint NOT NULL,
    source text NOT NULL CHECK (source IN (
        'free', 'promo', 'grant', 'adjustment', 'business', 'contract', 'purchased')),
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    remaining_nanos bigint NOT NULL,
    reserved_nanos bigint NOT NULL,
    frozen_nanos bigint NOT NULL,
    repaid_nanos bigint NOT NULL,
    expired_nanos bigint NOT NULL,
    refunded_nanos bigint NOT NULL,
    effective_at timestamptz NOT NULL,
    expires_at timestamptz,
    state text NOT NULL CHECK (state IN ('open', 'frozen', 'lost')),
    repays boolean NOT NULL,
    reference text,
    has_money boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    CHECK (expires_at > effective_at),
    CONSTRAINT reserved_within_remaining CHECK (
        0 <= reserved_nanos AND 0 <= frozen_nanos
        AND reserved_nanos + frozen_nanos <= remaining_nanos AND remaining_nanos <= amount_nanos),
    CONSTRAINT parts_not_negative CHECK (
        least(repaid_nanos, expired_nanos, refunded_nanos,
              amount_nanos - remaining_nanos - repaid_nanos - expired_nanos - refunded_nanos) >= 0),
    CHECK (has_money = (remaining_nanos > 0))
) WITH (fillfactor = 50);
CREATE INDEX credit_grant_open ON credit_grant (organization_id) WHERE has_money;
CREATE UNIQUE INDEX credit_grant_order ON credit_grant (organization_id, sequence);

CREATE TABLE scope_limit (
    organization_id uuid NOT NULL REFERENCES organization,
    scope_kind text NOT NULL CHECK (scope_kind IN ('organization')),
    scope_id uuid NOT NULL,
    rules jsonb NOT NULL,
    windows jsonb NOT NULL,
    PRIMARY KEY (organization_id, scope_kind, scope_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE scope_limit IS 'One row per scope that has a limit, with all its windows.';

CREATE TABLE hold (
    call_id uuid PRIMARY KEY,
    organization_id uuid NOT NULL,
    node_id uuid NOT NULL,
    epoch integer NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos >= 0),
    unsecured_nanos bigint NOT NULL CHECK (unsecured_nanos >= 0),
    earmark_grants uuid[] NOT NULL,
    earmark_nanos bigint[] NOT NULL,
    raised jsonb,
    admitted_at timestamptz NOT NULL,
    latest_end timestamptz NOT NULL,
    project_id uuid NOT NULL,
    key_id uuid NOT NULL,
    feature text NOT NULL,
    environment text NOT NULL,
    model text NOT NULL,
    lane text NOT NULL,
    endpoint text NOT NULL,
    fingerprint bytea NOT NULL,
    output_limit bigint NOT NULL,
    steps integer NOT NULL DEFAULT 0,
    progress bigint[],
    user_ref text NOT NULL,
    run_ref text NOT NULL,
    priority text NOT NULL,
    tags jsonb,
    client_request_id text NOT NULL,
    retry_count integer NOT NULL,
    streamed boolean NOT NULL,
    price_id uuid NOT NULL,
    upstream_account_id uuid NOT NULL,
    ceiling bigint[] NOT NULL,
    available_before_nanos bigint NOT NULL,
    limit_figures jsonb,
    CHECK (cardinality(earmark_grants) = cardinality(earmark_nanos))
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX hold_organization ON hold (organization_id);
CREATE INDEX hold_node ON hold (node_id, epoch);
COMMENT ON TABLE hold IS 'Open holds only; a closed one becomes a row of call.';
COMMENT ON COLUMN hold.ceiling IS 'fixed nanos, nanos per million output tokens, minimum, maximum.';

CREATE TABLE call (
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    project_id uuid NOT NULL,
    key_id uuid NOT NULL,
    sequence bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('settled', 'released', 'lapsed', 'late')),
    feature text NOT NULL,
    environment text NOT NULL,
    user_ref text NOT NULL,
    run_ref text NOT NULL,
    priority text NOT NULL,
    tags jsonb,
    client_request_id text NOT NULL,
    retry_count integer NOT NULL,
    model text NOT NULL,
    lane text NOT NULL,
    endpoint text NOT NULL,
    streamed boolean NOT NULL,
    admitted_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    latency_ms bigint NOT NULL,
    http_status integer NOT NULL,
    reason text NOT NULL,
    estimated boolean NOT NULL,
    held_nanos bigint NOT NULL,
    charge_nanos bigint NOT NULL CHECK (charge_nanos >= 0),
    absorbed_nanos bigint NOT NULL CHECK (absorbed_nanos >= 0),
    owed_nanos bigint NOT NULL CHECK (owed_nanos >= 0),
    cost_nanos bigint NOT NULL,
    late_charge_nanos bigint NOT NULL DEFAULT 0,
    late_absorbed_nanos bigint NOT NULL DEFAULT 0,
    upstream_account_id uuid NOT NULL,
    price_id uuid NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    line_units text[] NOT NULL,
    line_quantities bigint[] NOT NULL,
    line_prices bigint[] NOT NULL,
    line_nanos bigint[] NOT NULL,
    draw_grants uuid[] NOT NULL,
    draw_nanos bigint[] NOT NULL,
    raised jsonb,
    output_limit bigint NOT NULL,
    ceiling bigint[] NOT NULL,
    available_before_nanos bigint NOT NULL,
    limit_figures jsonb,
    admit_fingerprint bytea NOT NULL,
    settle_fingerprint bytea,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX call_organization ON call (organization_id, id);
CREATE TABLE call_default PARTITION OF call DEFAULT;
COMMENT ON TABLE call IS 'One row per closed call: its usage, its money and how both were decided.';

CREATE TABLE refusal (
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    project_id uuid NOT NULL,
    key_id uuid NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT farebox_now(),
    code text NOT NULL,
    message text NOT NULL,
    model text NOT NULL,
    endpoint text NOT NULL,
    needed_nanos bigint NOT NULL,
    available_nanos bigint NOT NULL,
    held_nanos bigint NOT NULL,
    limit_figures jsonb,
    user_ref text NOT NULL DEFAULT '',
    feature text NOT NULL DEFAULT '',
    times bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX refusal_organization ON refusal (organization_id, id);
CREATE TABLE refusal_default PARTITION OF refusal DEFAULT;
COMMENT ON TABLE refusal IS 'Refused calls: charge zero, with the figures of the decision (ERR-11).';

CREATE TABLE rollup_hour (
    organization_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    bucket uuid NOT NULL,
    project_id uuid NOT NULL,
    key_id uuid NOT NULL,
    feature text NOT NULL,
    environment text NOT NULL,
    model text NOT NULL,
    lane text NOT NULL,
    endpoint text NOT NULL,
    calls bigint NOT NULL,
    charge_nanos bigint NOT NULL,
    absorbed_nanos bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    PRIMARY KEY (organization_id, hour, bucket)
) WITH (fillfactor = 50);
COMMENT ON COLUMN rollup_hour.bucket IS 'Hash of the dimensions: a short key for a row that changes.';

CREATE TABLE posting (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    booked_at timestamptz NOT NULL DEFAULT farebox_now(),
    accounts text[] NOT NULL,
    amounts_nanos bigint[] NOT NULL,
    grant_id uuid,
    call_id uuid,
    first_sequence bigint,
    last_sequence bigint,
    note text,
    CHECK (cardinality(accounts) = cardinality(amounts_nanos))
);
CREATE INDEX posting_organization ON posting (organization_id, id);
CREATE INDEX posting_calls ON posting (organization_id, last_sequence) WHERE kind = 'calls';
CREATE INDEX posting_call ON posting (call_id) WHERE call_id IS NOT NULL;
CREATE UNIQUE INDEX posting_breakage_once ON posting (grant_id, coalesce(call_id, grant_id))
    WHERE kind = 'breakage';
COMMENT ON TABLE posting IS 'The double-entry journal; debits positive; never updated or deleted.';

CREATE FUNCTION farebox_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the journal is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER posting_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON posting
    FOR EACH STATEMENT EXECUTE FUNCTION farebox_refuse_change();

CREATE VIEW journal_entry AS
    SELECT p.id AS posting_id, p.organization_id, p.kind, p.at, e.account, e.amount_nanos,
           p.grant_id, p.call_id, p.first_sequence, p.last_sequence
    FROM posting p, unnest(p.accounts, p.amounts_nanos) AS e (account, amount_nanos);

CREATE VIEW call_line AS
    SELECT c.id AS call_id, c.organization_id, l.unit, l.quantity, l.price, l.amount_nanos
    FROM call c, unnest(c.line_units, c.line_quantities, c.line_prices, c.line_nanos)
        AS l (unit, quantity, price, amount_nanos);

CREATE VIEW call_draw AS
    SELECT c.id AS call_id, c.organization_id, d.grant_id, d.amount_nanos
    FROM call c, unnest(c.draw_grants, c.draw_nanos) AS d (grant_id, amount_nanos);

CREATE TABLE money_command (
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT farebox_now(),
    PRIMARY KEY (id, organization_id)
);
COMMENT ON TABLE money_command IS 'Refunds and corrections that took effect: each does once.';

-- Nodes, outbox, quarantine ------------------------------------------------------------------

CREATE TABLE node (
    id uuid PRIMARY KEY,
    epoch integer NOT NULL,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON COLUMN node.seen_at IS 'The real clock, never the sandbox one: it measures absence.';

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    facts jsonb NOT NULL
);
CREATE INDEX outbox_organization ON outbox (organization_id, id);

CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT farebox_now(),
    organization_id uuid NOT NULL,
    command_kind text NOT NULL,
    command jsonb NOT NULL,
    error text NOT NULL,
    ruled_at timestamptz
);
COMMENT ON TABLE quarantine IS 'Commands that the database rejected; their holds stay until a ruling.';

-- Partitions ---------------------------------------------------------------------------------

CREATE FUNCTION farebox_make_partitions(first_day timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    base timestamp := date_trunc('month', first_day AT TIME ZONE 'UTC');
    made integer := 0;
    parent text;
    part text;
    month_begin timestamptz;
    month_end timestamptz;
    low uuid;
    high uuid;
BEGIN
    -- One at a time: processes that start and workers ask together.
    PERFORM pg_advisory_xact_lock(4197363910);
    FOR i IN 0 .. months - 1 LOOP
        month_begin := (base + make_interval(months => i)) AT TIME ZONE 'UTC';
        month_end := (base + make_interval(months => i + 1)) AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['call', 'refusal'] LOOP
            part := format('%s_%s', parent, to_char(month_begin AT TIME ZONE 'UTC', 'YYYY_MM'));
            IF to_regclass(part) IS NULL THEN
                low := farebox_uuid_floor(month_begin);
                high := farebox_uuid_floor(month_end);
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
                -- Rows that came before their month, from a clock that ran ahead, move over:
                -- the server refuses a partition whose rows lie in the default one.
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
                EXECUTE format('WITH early AS (DELETE FROM %I WHERE id >= %L AND id < %L'
                    ' RETURNING *) INSERT INTO %I SELECT * FROM early',
                    parent || '_default', low, high, part);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    parent, part, low, high);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION farebox_make_partitions IS 'Make the months that are missing; run at start and daily.';

SELECT farebox_make_partitions(clock_timestamp() - interval '1 month', 5);
