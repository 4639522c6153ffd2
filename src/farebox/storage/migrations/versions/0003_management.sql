-- The management plane: who may do what, what was done, projects and keys in full, tiers and plans.
--
-- * The audit log is one chain; whoever appends locks its head last, after any organisation.
-- * Rows of an organisation are written under its lock; key_use is not one of them: it only notes.
-- * Plan versions and audit events are never changed.

-- Audit --------------------------------------------------------------------------------------

CREATE TABLE audit_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sequence bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(hash) = 32)
);
INSERT INTO audit_head DEFAULT VALUES;
COMMENT ON TABLE audit_head IS 'The end of the chain; its row is the lock of whoever appends.';

CREATE TABLE audit_event (
    sequence bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    actor_kind text NOT NULL,
    actor_id text NOT NULL,
    actor_name text NOT NULL,
    door text NOT NULL,
    address text NOT NULL,
    request_id text NOT NULL,
    action text NOT NULL,
    subject_kind text NOT NULL,
    subject_id text NOT NULL,
    organization_id uuid,
    outcome text NOT NULL CHECK (outcome IN ('done', 'refused', 'unknown')),
    reason text NOT NULL,
    before json,
    after json,
    previous_hash bytea NOT NULL CHECK (length(previous_hash) = 32),
    hash bytea NOT NULL UNIQUE CHECK (length(hash) = 32)
);
CREATE INDEX audit_event_organization ON audit_event (organization_id, sequence);
COMMENT ON TABLE audit_event IS 'Every settings and money action; append-only, hash-chained.';
COMMENT ON COLUMN audit_event.before IS 'Kept as the very text that was hashed (tenancy/audit_chain.py).';

CREATE FUNCTION farebox_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION farebox_refuse_audit_change();
CREATE TRIGGER audit_head_stays BEFORE DELETE OR TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION farebox_refuse_audit_change();

CREATE TABLE audit_pending (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor json NOT NULL,
    note json NOT NULL
);
COMMENT ON TABLE audit_pending IS 'Money actions under way: noted before the engine is asked, chained
with their outcome afterwards; one whose process died is chained as unknown.';

-- People -------------------------------------------------------------------------------------

ALTER TABLE deployment ADD COLUMN self_sign_up boolean NOT NULL DEFAULT false;

CREATE TABLE directory (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL DEFAULT 1
);
INSERT INTO directory DEFAULT VALUES;
COMMENT ON TABLE directory IS 'Grows when facts change that a gateway keeps with a key: a project''s
models, caps and slices, an organisation''s plan.';

ALTER TABLE console_user
    ADD COLUMN operator boolean NOT NULL DEFAULT false,
    ADD COLUMN disabled_at timestamptz;
-- Until now whoever could sign in saw everything.
UPDATE console_user SET operator = true;
COMMENT ON COLUMN console_user.operator IS 'Administers the deployment and every organisation in it.';

CREATE TABLE member (
    organization_id uuid NOT NULL REFERENCES organization,
    user_id uuid NOT NULL REFERENCES console_user,
    role text NOT NULL CHECK (role IN (
        'owner', 'billing_admin', 'developer', 'finance_viewer', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX member_user ON member (user_id);
COMMENT ON TABLE member IS 'One login, any number of organisations (ORG-01, ORG-08).';

CREATE TABLE invitation (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    email text NOT NULL,
    role text NOT NULL CHECK (role IN (
        'owner', 'billing_admin', 'developer', 'finance_viewer', 'viewer')),
    digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    invited_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    user_id uuid REFERENCES console_user,
    revoked_at timestamptz,
    CHECK ((accepted_at IS NULL) = (user_id IS NULL))
);
CREATE INDEX invitation_organization ON invitation (organization_id, id);
COMMENT ON COLUMN invitation.digest IS 'SHA-256 of a token that works once; the token is shown once.';

-- Projects, service accounts and keys --------------------------------------------------------

ALTER TABLE project
    ADD COLUMN purpose text NOT NULL DEFAULT '',
    ADD COLUMN owner text NOT NULL DEFAULT '',
    ADD COLUMN allowed_models text[],
    ADD COLUMN output_tokens_max integer CHECK (output_tokens_max > 0),
    ADD COLUMN stores_content boolean NOT NULL DEFAULT false,
    ADD COLUMN content_retention_days integer CHECK (content_retention_days BETWEEN 1 AND 3650),
    ADD CONSTRAINT default_within_maximum CHECK (default_output_tokens <= output_tokens_max),
    ADD CONSTRAINT content_has_an_end CHECK (NOT stores_content OR content_retention_days IS NOT NULL);
COMMENT ON COLUMN project.allowed_models IS 'Names, or beginnings with *; NULL allows every model.';

CREATE TABLE service_account (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    project_id uuid NOT NULL REFERENCES project,
    name text NOT NULL,
    purpose text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    disabled_at timestamptz
);
CREATE UNIQUE INDEX service_account_name ON service_account (project_id, lower(name))
    WHERE disabled_at IS NULL;
CREATE INDEX service_account_organization ON service_account (organization_id, id);

ALTER TABLE api_key
    ADD COLUMN service_account_id uuid REFERENCES service_account,
    ADD COLUMN user_id uuid REFERENCES console_user,
    ADD COLUMN replaces_id uuid UNIQUE REFERENCES api_key,
    ADD CONSTRAINT one_owner CHECK (service_account_id IS NULL OR user_id IS NULL);
CREATE INDEX api_key_organization ON api_key (organization_id, id);
CREATE INDEX api_key_service_account ON api_key (service_account_id);
CREATE INDEX api_key_user ON api_key (user_id);
COMMENT ON COLUMN api_key.replaces_id IS 'The key that this one was rotated from.';

CREATE TABLE key_use (
    key_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE key_use IS 'When a key was last used, to the minute; written outside money (ORG-15).';

ALTER TABLE management_key
    ADD COLUMN organization_id uuid REFERENCES organization,
    ADD COLUMN role text CHECK (role IN (
        'owner', 'billing_admin', 'developer', 'finance_viewer', 'viewer')),
    ADD COLUMN expires_at timestamptz,
    ADD CONSTRAINT scope_is_whole CHECK ((organization_id IS NULL) = (role IS NULL));
COMMENT ON COLUMN management_key.organization_id IS 'The one it manages; NULL: the whole deployment.';

-- Tiers --------------------------------------------------------------------------------------

CREATE TABLE usage_tier (
    id uuid PRIMARY KEY,
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    position integer NOT NULL CHECK (position >= 0),
    name text NOT NULL,
    purchases_nanos bigint NOT NULL CHECK (purchases_nanos >= 0),
    age_days integer NOT NULL CHECK (age_days >= 0),
    monthly_maximum_nanos bigint CHECK (monthly_maximum_nanos >= 0),
    balance_maximum_nanos bigint CHECK (balance_maximum_nanos >= 0),
    recharge_maximum_nanos bigint CHECK (recharge_maximum_nanos >= 0),
    rates json NOT NULL,
    UNIQUE (currency, position)
);
CREATE UNIQUE INDEX usage_tier_name ON usage_tier (currency, lower(name));
COMMENT ON TABLE usage_tier IS 'Usage and trust tiers (LIM-05, LIM-07): what they need and allow.';

CREATE TABLE organization_tier (
    organization_id uuid PRIMARY KEY REFERENCES organization,
    tier_id uuid NOT NULL REFERENCES usage_tier,
    fixed boolean NOT NULL,
    assigned_at timestamptz NOT NULL DEFAULT farebox_now()
);
COMMENT ON COLUMN organization_tier.fixed IS 'Given by hand: the rule does not move it.';

-- Price plans --------------------------------------------------------------------------------

CREATE TABLE price_plan (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now()
);
CREATE UNIQUE INDEX price_plan_name ON price_plan (lower(name));

CREATE TABLE price_plan_version (
    id uuid PRIMARY KEY,
    plan_id uuid NOT NULL REFERENCES price_plan,
    number integer NOT NULL CHECK (number > 0),
    effective_at timestamptz NOT NULL,
    terms json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT farebox_now(),
    UNIQUE (plan_id, number)
);
COMMENT ON TABLE price_plan_version IS 'What a plan says from an instant on; never edited.';

CREATE FUNCTION farebox_refuse_plan_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a version of a price plan is never changed; make the next one'
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER price_plan_version_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON price_plan_version
    FOR EACH STATEMENT EXECUTE FUNCTION farebox_refuse_plan_change();

CREATE TABLE planned_price (
    id uuid PRIMARY KEY,
    price_id uuid NOT NULL REFERENCES price_version,
    plan_version_id uuid NOT NULL REFERENCES price_plan_version
);
COMMENT ON TABLE planned_price IS 'A price version under a plan: what the price_id of a call means
where it is none of price_version; its prices are computed again from both.';

ALTER TABLE organization ADD COLUMN plan_id uuid REFERENCES price_plan;
COMMENT ON COLUMN organization.plan_id IS 'How its calls are rated; NULL passes prices through.';

-- Idempotency of the native API --------------------------------------------------------------

CREATE TABLE api_request (
    caller text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    effect_id uuid NOT NULL,
    status integer,
    content_type text,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (caller, key)
);
CREATE INDEX api_request_created ON api_request (created_at);
COMMENT ON TABLE api_request IS 'Writes of the native API by the key their client chose: a repeated
one gets the first one''s answer. Kept 35 days by the real clock.';
COMMENT ON COLUMN api_request.effect_id IS 'The id of whatever the request makes: a request that is
done again after a crash makes the same thing.';
