-- Days of usage: a month or a year is read by the day, not by the hour.
--
-- * The hours stay what is true. The worker adds up days that are over; a day counts only while its
--   row here says that it is summed, and is read by its hours otherwise.
-- * Whatever changes an hour of such a day (an answer that comes late) makes it unsummed in the same
--   transaction: the trigger of rollup_hour. Engine and worker both hold the organisation's lock, so
--   neither can miss the other.
-- * Hours of days that nobody has added up cost the engine one comparison with a constant: the
--   trigger's condition is the end of what is watched, and is moved on once a day.

CREATE TABLE rollup_day (
    organization_id uuid NOT NULL,
    day timestamptz NOT NULL,
    project_id uuid NOT NULL,
    key_id uuid NOT NULL,
    calls bigint NOT NULL,
    charge_nanos bigint NOT NULL,
    absorbed_nanos bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    feature text NOT NULL,
    environment text NOT NULL,
    model text NOT NULL,
    endpoint text NOT NULL
);
CREATE INDEX rollup_day_organization ON rollup_day (organization_id, day);
COMMENT ON TABLE rollup_day IS 'Hours added up to days of UTC, by all that usage is asked by.';
COMMENT ON COLUMN rollup_day.day IS 'Its first instant; of days that summed_day says are summed.';

CREATE TABLE summed_day (
    organization_id uuid NOT NULL,
    day timestamptz NOT NULL,
    is_summed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (organization_id, day)
);
CREATE INDEX summed_day_due ON summed_day (day, organization_id) WHERE NOT is_summed;
COMMENT ON TABLE summed_day IS 'Days that have usage and are watched; not summed ones are due.';

CREATE TABLE watched_days (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    watched_until timestamptz NOT NULL DEFAULT '-infinity',
    listed_until timestamptz
);
INSERT INTO watched_days DEFAULT VALUES;
COMMENT ON TABLE watched_days IS 'Before watched_until every change of an hour is noticed; days before
listed_until (NULL: before the first usage) have a row of summed_day if they had usage then.';

CREATE FUNCTION farebox_day_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed timestamptz := date_trunc('day', NEW.hour, 'UTC');
BEGIN
    IF NOT EXISTS (SELECT FROM summed_day s WHERE s.organization_id = NEW.organization_id
                   AND s.day = changed AND NOT s.is_summed) THEN
        INSERT INTO summed_day (organization_id, day) VALUES (NEW.organization_id, changed)
        ON CONFLICT (organization_id, day) DO UPDATE SET is_summed = false;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION farebox_day_changed IS 'A day whose hours change is due to be added up anew.';

CREATE FUNCTION farebox_watch_days(until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- One after the other, and never back: what is summed must stay watched.
    IF until > (SELECT watched_until FROM watched_days FOR UPDATE) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER day_changed AFTER INSERT OR UPDATE ON rollup_hour'
            ' FOR EACH ROW WHEN (NEW.hour < %L::timestamptz)'
            ' EXECUTE FUNCTION farebox_day_changed()', until);
        UPDATE watched_days SET watched_until = until;
    END IF;
END $$;
COMMENT ON FUNCTION farebox_watch_days IS 'From now on changes of hours before that are noticed. Waits
for whoever writes usage just now.';

CREATE FUNCTION farebox_list_days(most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    listed timestamptz;
    until timestamptz;
BEGIN
    SELECT coalesce(listed_until, (SELECT date_trunc('day', min(hour), 'UTC') FROM rollup_hour)),
        watched_until INTO listed, until FROM watched_days FOR UPDATE;
    IF listed IS NULL THEN
        RETURN;
    END IF;
    until := greatest(listed, least(until, listed + most * interval '24 hours'));
    INSERT INTO summed_day (organization_id, day)
    SELECT o.id, d.day
    FROM organization o, generate_series(listed, until - interval '24 hours', '24 hours') AS d (day)
    WHERE EXISTS (SELECT FROM rollup_hour r WHERE r.organization_id = o.id AND r.hour >= d.day
                  AND r.hour < d.day + interval '24 hours')
    ON CONFLICT DO NOTHING;
    UPDATE watched_days SET listed_until = until WHERE listed_until IS DISTINCT FROM until;
END $$;
COMMENT ON FUNCTION farebox_list_days IS 'Days that have usage and are watched now are due.';

CREATE FUNCTION farebox_sum_day(organization uuid, due timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Nobody writes the organisation's hours meanwhile; the statements after this see all of them.
    PERFORM FROM organization o WHERE o.id = organization FOR NO KEY UPDATE;
    UPDATE summed_day s SET is_summed = true
    WHERE s.organization_id = organization AND s.day = due AND NOT s.is_summed
      AND due + interval '24 hours' <= (SELECT watched_until FROM watched_days);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM rollup_day r WHERE r.organization_id = organization AND r.day = due;
    INSERT INTO rollup_day (organization_id, day, project_id, key_id, feature, environment, model,
        endpoint, calls, charge_nanos, absorbed_nanos, cost_nanos, input_tokens, cached_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens)
    SELECT r.organization_id, due, r.project_id, r.key_id, r.feature, r.environment, r.model,
        r.endpoint, sum(r.calls), sum(r.charge_nanos), sum(r.absorbed_nanos), sum(r.cost_nanos),
        sum(r.input_tokens), sum(r.cached_tokens), sum(r.cache_write_tokens), sum(r.output_tokens),
        sum(r.reasoning_tokens)
    FROM rollup_hour r
    WHERE r.organization_id = organization AND r.hour >= due AND r.hour < due + interval '24 hours'
    GROUP BY r.organization_id, r.project_id, r.key_id, r.feature, r.environment, r.model, r.endpoint;
END $$;
COMMENT ON FUNCTION farebox_sum_day IS 'Adds up one day of one organisation, under its lock.';
