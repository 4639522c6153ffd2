-- A feature of a project may have a default and a maximum for the output of its calls (SAV-12).

ALTER TABLE project ADD COLUMN feature_caps jsonb NOT NULL DEFAULT '{}'
    CHECK (jsonb_typeof(feature_caps) = 'object');
COMMENT ON COLUMN project.feature_caps IS 'By feature: default_output_tokens and output_tokens_max of
its calls, each a number or null.';
