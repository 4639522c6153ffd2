-- Gateways remember what they wrote of an organisation and go on from there, as long as its row is
-- still the version (xmin) that they know (docs/adr/0021). So whatever the engine reads of an
-- organisation may change only in a transaction that writes the organisation's row as well. The engine
-- does so by itself; for keys and projects, which others write, the tables see to it.

CREATE FUNCTION farebox_new_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE organization SET id = id WHERE id = OLD.organization_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION farebox_new_version IS 'Makes a new version of the organisation''s row, so that
whoever remembers the organisation reads it again.';

CREATE TRIGGER api_key_makes_version AFTER UPDATE OF project_id, expires_at, revoked_at OR DELETE
    ON api_key FOR EACH ROW EXECUTE FUNCTION farebox_new_version();
CREATE TRIGGER project_makes_version AFTER UPDATE OF archived_at OR DELETE
    ON project FOR EACH ROW EXECUTE FUNCTION farebox_new_version();

CREATE FUNCTION farebox_not_as_remembered() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'not as remembered' USING ERRCODE = 'FB001';
END
$$;
COMMENT ON FUNCTION farebox_not_as_remembered IS 'Ends a batch that was decided by what its gateway
remembered, and that is no longer so; the gateway reads and decides anew.';
