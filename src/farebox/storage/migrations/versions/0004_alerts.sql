-- Alerts beyond thresholds: what looks wrong in how credit is spent, told once each.
--
-- * An anomaly is written with its word in the outbox, under the organisation's lock; its key makes
--   it one, whoever finds it however often.
-- * repeated_request, user_hour and anomaly_look are no rows of an organisation: they only note.
--   Of what callers send there is a hash and a count, never a text.

CREATE TABLE alert_setting (
    organization_id uuid PRIMARY KEY REFERENCES organization,
    settings json NOT NULL
);
COMMENT ON TABLE alert_setting IS 'What an organisation is told of, where it differs from the defaults.';

CREATE TABLE anomaly (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    kind text NOT NULL,
    subject text NOT NULL,
    period_start timestamptz NOT NULL,
    at timestamptz NOT NULL,
    facts json NOT NULL,
    action text NOT NULL CHECK (action IN ('told', 'stopping', 'stopped')),
    acted_at timestamptz,
    UNIQUE (organization_id, kind, subject, period_start)
);
CREATE INDEX anomaly_stopping ON anomaly (id) WHERE action = 'stopping';
COMMENT ON TABLE anomaly IS 'What was found, its evidence and what was done about it (ANO-09).';
COMMENT ON COLUMN anomaly.subject IS 'What it is about; one of each kind, subject and period.';

CREATE TABLE anomaly_look (
    organization_id uuid PRIMARY KEY REFERENCES organization,
    sequence bigint NOT NULL,
    looked_at timestamptz NOT NULL,
    limits_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE anomaly_look IS 'How far each organisation was looked at: who has closed no call since
is not looked at again.';

CREATE TABLE repeated_request (
    minute timestamptz NOT NULL,
    organization_id uuid NOT NULL,
    watched bytea NOT NULL CHECK (length(watched) = 16),
    project_id uuid NOT NULL,
    key_id uuid NOT NULL,
    run_ref text NOT NULL,
    model text NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (minute, organization_id, watched)
) WITH (fillfactor = 50);
COMMENT ON TABLE repeated_request IS 'Near-identical requests by the minute, of all gateways together;
only of those that came more than once or twice. Forgotten after a day.';
COMMENT ON COLUMN repeated_request.watched IS 'A hash of key, run and the folded request.';

CREATE TABLE user_hour (
    organization_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    user_ref text NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (organization_id, hour, user_ref)
) WITH (fillfactor = 50);
CREATE INDEX user_hour_hour ON user_hour (hour);
COMMENT ON TABLE user_hour IS 'Calls of users in the minutes in which they were frequent. Forgotten
after a fortnight.';
