AUDIT (
  name no_rows_lost,
  defaults (
    clock = updated_at
  )
);

/* Claim: every record that was landed, and is not deleted at the source, is in this staging table. A returned row is a key
that got lost between landing and staging: a run skipped its load. Restate the model for the day of _loaded_at. */
WITH sides AS (
  /* where every record has one version, and the keys are the same, nothing has to be looked up */
  SELECT
    here.key_count <> there.key_count OR here.keys IS DISTINCT FROM there.keys AS differ
  FROM (
    SELECT
      COUNT(*) AS key_count,
      @fingerprint(this, @key) AS keys
    FROM @this_model AS this
    WHERE
      @replaced(this)
  ) AS here
  CROSS JOIN (
    SELECT
      COUNT(*) AS key_count,
      @fingerprint(source, @key) AS keys
    FROM @source AS source
    WHERE
      source._loaded_at <= @end_tstz::TIMESTAMPTZ AND @replaced(source)
  ) AS there
), missing AS (
  SELECT
    @key_columns(source, @key),
    source._loaded_at,
    source._deleted,
    ROW_NUMBER() OVER (
      PARTITION BY @key_columns(source, @key)
      ORDER BY source.@clock DESC, source._loaded_at DESC, source._row_number DESC, source._batch_id DESC
    ) AS version_rank
  FROM @source AS source
  WHERE
    (
      SELECT
        sides.differ
      FROM sides
    )
    AND NOT EXISTS(
      SELECT
        1
      FROM @this_model AS this
      WHERE
        @keys_equal(source, this, @key)
    )
    AND source._loaded_at <= @end_tstz::TIMESTAMPTZ
    AND @replaced(source)
)
SELECT
  @key_columns(missing, @key),
  missing._loaded_at
FROM missing
WHERE
  missing.version_rank = 1 AND NOT missing._deleted
