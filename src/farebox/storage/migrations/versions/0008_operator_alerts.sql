-- Alerts that are no organisation's: what the deployment's operators must hear of (ERR-08). They lie
-- where the others lie, without an organisation, and their key makes them one just as well.

ALTER TABLE anomaly ALTER organization_id DROP NOT NULL;
ALTER TABLE anomaly DROP CONSTRAINT anomaly_organization_id_kind_subject_period_start_key;
ALTER TABLE anomaly ADD CONSTRAINT anomaly_once
    UNIQUE NULLS NOT DISTINCT (organization_id, kind, subject, period_start);
COMMENT ON COLUMN anomaly.organization_id IS 'Whose it is; none: it is told to operators.';

ALTER TABLE outbox ALTER organization_id DROP NOT NULL;
COMMENT ON COLUMN outbox.organization_id IS 'Who must hear of it; none: the operators.';
