AUDIT (
  name no_rows_lost,
  defaults (
    clock = updated_at
  )
);

/* Claim: every record that was landed, and is not deleted at the source, is in this staging table. A returned row is a key
that got lost between landing and staging: a run skipped its load. Restate the model for the day of _loaded_at. */
WITH missing AS (
  SELECT
    source.*,
    ROW_NUMBER() OVER (
      PARTITION BY @key_columns(source, @key)
      ORDER BY source.@clock DESC, source._loaded_at DESC, source._row_number DESC, source._batch_id DESC
    ) AS version_rank
  FROM @source AS source
  WHERE
    NOT EXISTS(
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
