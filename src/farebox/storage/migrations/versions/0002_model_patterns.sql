-- Names of a model that cannot be listed: regular expressions, such as those of fine-tuned models.

ALTER TABLE model ADD COLUMN patterns text[] NOT NULL DEFAULT '{}';
