-- Schema meta: what the marts are, for BI tools, agents and analysts who look before they ask. Written whole by every
-- deployment (scripts/catalog.py), so readers see one moment. Run as the administrator; repeating it changes nothing.

CREATE SCHEMA IF NOT EXISTS meta;
COMMENT ON SCHEMA meta IS 'What the tables of marts and ml hold, where it comes from, and questions that they answer';
GRANT USAGE ON SCHEMA meta TO sqlmesh_user;

CREATE TABLE IF NOT EXISTS meta.models (
  model TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  tags TEXT[] NOT NULL,
  grain TEXT[] NOT NULL,
  description TEXT NOT NULL,
  deployed_at TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE meta.models IS 'One row per table of marts and ml';
COMMENT ON COLUMN meta.models.model IS 'Name, with its schema';
COMMENT ON COLUMN meta.models.owner IS 'Team to ask';
COMMENT ON COLUMN meta.models.tags IS 'Layer and subject';
COMMENT ON COLUMN meta.models.grain IS 'Columns that are unique together: one row per ...';
COMMENT ON COLUMN meta.models.description IS 'What a row is, which questions it answers, what it leaves out';
COMMENT ON COLUMN meta.models.deployed_at IS 'When prod was last deployed: the same in every row';

CREATE TABLE IF NOT EXISTS meta.columns (
  model TEXT NOT NULL,
  position INTEGER NOT NULL,
  column_name TEXT NOT NULL,
  data_type TEXT NOT NULL,
  description TEXT NOT NULL,
  PRIMARY KEY (model, column_name)
);
COMMENT ON TABLE meta.columns IS 'One row per column of a table of marts or ml';
COMMENT ON COLUMN meta.columns.model IS 'Table; joins meta.models';
COMMENT ON COLUMN meta.columns.position IS 'Place in the table, from 1';
COMMENT ON COLUMN meta.columns.column_name IS 'Name';
COMMENT ON COLUMN meta.columns.data_type IS 'Type, as a CAST takes it';
COMMENT ON COLUMN meta.columns.description IS 'Meaning, unit, what NULL says, what it joins';

CREATE TABLE IF NOT EXISTS meta.lineage (
  model TEXT NOT NULL,
  column_name TEXT,
  source_model TEXT NOT NULL,
  source_column TEXT,
  UNIQUE NULLS NOT DISTINCT (model, column_name, source_model, source_column)
);
COMMENT ON TABLE meta.lineage IS 'One row per column and column that it is made of, one step back; from marts to landing';
COMMENT ON COLUMN meta.lineage.model IS 'Table or view, of any layer';
COMMENT ON COLUMN meta.lineage.column_name IS 'Its column; NULL: the source only decides on rows, or is checked against';
COMMENT ON COLUMN meta.lineage.source_model IS 'What it reads; those of landing are the sources';
COMMENT ON COLUMN meta.lineage.source_column IS 'Column there; NULL as column_name';

CREATE TABLE IF NOT EXISTS meta.relationships (
  model TEXT NOT NULL,
  column_name TEXT NOT NULL,
  parent_model TEXT NOT NULL,
  parent_column TEXT NOT NULL,
  PRIMARY KEY (model, column_name, parent_model)
);
COMMENT ON TABLE meta.relationships IS 'One row per foreign key that every run proves: no value without its parent';
COMMENT ON COLUMN meta.relationships.model IS 'Table; joins meta.models';
COMMENT ON COLUMN meta.relationships.column_name IS 'Its column; may be NULL in a row';
COMMENT ON COLUMN meta.relationships.parent_model IS 'Table that it joins';
COMMENT ON COLUMN meta.relationships.parent_column IS 'Unique column there';

CREATE TABLE IF NOT EXISTS meta.freshness (
  model TEXT PRIMARY KEY,
  fresh_to TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE meta.freshness IS 'One row per table of marts and ml that has been built; written by every run';
COMMENT ON COLUMN meta.freshness.model IS 'Table; joins meta.models';
COMMENT ON COLUMN meta.freshness.fresh_to IS 'Whatever was loaded before this moment is in the table';

CREATE TABLE IF NOT EXISTS meta.example_queries (
  number INTEGER PRIMARY KEY,
  question TEXT NOT NULL,
  query TEXT NOT NULL
);
COMMENT ON TABLE meta.example_queries IS 'One row per worked question of docs/analysts.md; the tests run each of them';
COMMENT ON COLUMN meta.example_queries.number IS 'As on the page';
COMMENT ON COLUMN meta.example_queries.question IS 'What an analyst asks';
COMMENT ON COLUMN meta.example_queries.query IS 'SQL that answers it';

GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA meta TO sqlmesh_user;
