-- Retention: calls and refusals leave by whole months, stored content by whole days; never by DELETE.
--
-- * What the books need of calls that are gone is added up in the transaction that drops their month:
--   totals, what grants paid, what limits that never end have counted, and the few single facts that
--   the journal names. Those sums are kept for good; they hold no call's id but those the journal has.
-- * A month is sealed before it is added up: nothing in it changes any more.
-- * Content lies by the day on which it is to go, so that every project's days are kept to.

CREATE TABLE retention (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    call_months integer CHECK (call_months BETWEEN 2 AND 1200),
    refusal_months integer CHECK (refusal_months BETWEEN 2 AND 1200)
);
INSERT INTO retention DEFAULT VALUES;
COMMENT ON TABLE retention IS 'For how many whole months after their own calls are kept; NULL: for good.';

CREATE TABLE dropped_month (
    parent text NOT NULL CHECK (parent IN ('call', 'refusal')),
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    records bigint NOT NULL,
    charge_nanos bigint NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT farebox_now(),
    PRIMARY KEY (parent, month)
);
COMMENT ON TABLE dropped_month IS 'Months that retention has dropped.';

CREATE TABLE dropped_calls (
    organization_id uuid PRIMARY KEY REFERENCES organization,
    calls bigint NOT NULL,
    charge_nanos bigint NOT NULL,
    absorbed_nanos bigint NOT NULL,
    owed_nanos bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    sequence_max bigint NOT NULL,
    first_hour timestamptz NOT NULL,
    last_hour timestamptz NOT NULL
);
COMMENT ON TABLE dropped_calls IS 'The calls of dropped months, added up.';

CREATE TABLE dropped_draw (
    organization_id uuid NOT NULL REFERENCES organization,
    grant_id uuid NOT NULL,
    nanos bigint NOT NULL,
    PRIMARY KEY (organization_id, grant_id)
);
COMMENT ON TABLE dropped_draw IS 'What the calls of dropped months drew from each grant.';

CREATE TABLE dropped_part (
    posting_id bigint NOT NULL,
    month date NOT NULL,
    organization_id uuid NOT NULL REFERENCES organization,
    first_sequence bigint NOT NULL,
    calls bigint NOT NULL,
    call_first bigint NOT NULL,
    call_last bigint NOT NULL,
    charge_nanos bigint NOT NULL,
    owed_nanos bigint NOT NULL,
    absorbed_nanos bigint NOT NULL,
    PRIMARY KEY (posting_id, month)
);
CREATE INDEX dropped_part_organization ON dropped_part (organization_id);
COMMENT ON TABLE dropped_part IS 'Of postings that cover calls of more than one month: what the
dropped month had of them, before late corrections.';

CREATE TABLE dropped_call (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    state call_state NOT NULL,
    late_charge_nanos bigint NOT NULL,
    late_absorbed_nanos bigint NOT NULL
);
COMMENT ON TABLE dropped_call IS 'Dropped calls that postings name, one by one.';

CREATE TABLE dropped_use (
    organization_id uuid NOT NULL REFERENCES organization,
    kind scope_kind NOT NULL,
    ref text NOT NULL,
    model text NOT NULL,
    since timestamptz NOT NULL,
    money bigint NOT NULL,
    tokens bigint NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (organization_id, kind, ref, model, since)
);
COMMENT ON TABLE dropped_use IS 'What each scope had used in dropped calls, for limits in total.';
COMMENT ON COLUMN dropped_use.since IS 'The last instant before those calls from which a total limit
counts (1970: from the beginning), so that any such limit can be counted anew.';

-- Lists --------------------------------------------------------------------------------------

-- What is looked for by name among a million calls; calls that name nothing, or end as most do, do
-- not pay for it.
CREATE INDEX call_unusual ON call (organization_id, id) WHERE state <> 'settled';
CREATE INDEX call_user ON call (organization_id, user_ref, id) WHERE user_ref <> '';
CREATE INDEX call_run ON call (organization_id, run_ref, id) WHERE run_ref <> '';

-- Months -------------------------------------------------------------------------------------

CREATE FUNCTION farebox_refuse_sealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this month is sealed: it is past retention' USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION farebox_month_part(parent text, month date) RETURNS regclass
LANGUAGE sql STABLE AS $$
    SELECT to_regclass(format('%I', format('%s_%s', parent, to_char(month, 'YYYY_MM'))))
$$;

CREATE FUNCTION farebox_seal_month(parent text, month date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER sealed BEFORE INSERT OR UPDATE OR DELETE ON %s'
        ' FOR EACH ROW EXECUTE FUNCTION farebox_refuse_sealed()', farebox_month_part(parent, month));
END $$;
COMMENT ON FUNCTION farebox_seal_month IS 'From now on nothing of that month changes.';

CREATE FUNCTION farebox_drop_month(parent text, month date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP TABLE %s', farebox_month_part(parent, month));
END $$;

-- Content ------------------------------------------------------------------------------------

CREATE TABLE call_content (
    ends_on date NOT NULL,
    call_id uuid NOT NULL,
    organization_id uuid NOT NULL,
    project_id uuid NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT farebox_now(),
    request bytea NOT NULL,
    request_bytes bigint NOT NULL,
    answer bytea NOT NULL,
    answer_bytes bigint NOT NULL,
    answer_type text NOT NULL,
    PRIMARY KEY (call_id, ends_on)
) PARTITION BY RANGE (ends_on);
CREATE INDEX call_content_organization ON call_content (organization_id, call_id);
COMMENT ON TABLE call_content IS 'Requests and answers of projects that store them; no headers.';
COMMENT ON COLUMN call_content.ends_on IS 'The day (UTC) on which it is dropped.';
COMMENT ON COLUMN call_content.answer_bytes IS 'As sent; more than is stored where it was cut.';

CREATE FUNCTION farebox_make_content_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part text := format('call_content_%s', to_char(day, 'YYYY_MM_DD'));
BEGIN
    PERFORM pg_advisory_xact_lock(4197363910);
    IF to_regclass(part) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE call_content INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE call_content ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            part, day, day + 1);
    END IF;
END $$;
COMMENT ON FUNCTION farebox_make_content_day IS 'A place for content that ends on that day.';

CREATE FUNCTION farebox_drop_content_until(day date, most integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    part regclass;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(4197363910);
    FOR part IN
        SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent = 'call_content'::regclass
          AND substr(inhrelid::regclass::text, 14) <= to_char(day, 'YYYY_MM_DD')
        ORDER BY inhrelid::regclass::text LIMIT most
    LOOP
        EXECUTE format('DROP TABLE %s', part);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION farebox_drop_content_until IS 'Drop days that have come; gives how many.';
