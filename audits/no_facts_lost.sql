AUDIT (
  name no_facts_lost,
  defaults (
    waits = TRUE
  )
);

/* Claim: staging records and rows of this fact are the same keys, but for those that wait for an order that has not arrived
(waits := FALSE: nothing waits). A returned row is a key on one side only: restate this model. */
WITH missing AS (
  SELECT
    @key_columns(source, @key),
    source.order_id AS parent_id
  FROM @source AS source
  WHERE
    @replaced(source)
    AND NOT EXISTS(
      SELECT
        1
      FROM @this_model AS this
      WHERE
        @keys_equal(source, this, @key)
    )
), counts AS (
  /* keys are unique on both sides: where the numbers agree, nothing is here that is not in staging */
  SELECT
    (
      SELECT
        COUNT(*)
      FROM @this_model AS this
      WHERE
        @replaced(this)
    ) + (
      SELECT
        COUNT(*)
      FROM missing
    ) - (
      SELECT
        COUNT(*)
      FROM @source AS source
      WHERE
        @replaced(source)
    ) AS extra
)
SELECT
  @key_columns(missing, @key),
  'missing here' AS violation
FROM missing
WHERE
  NOT (
    @waits
    AND NOT missing.parent_id IS NULL
    AND (
      /* one row, so looked up for each that is missing; NOT EXISTS would hash all orders */
      SELECT
        parents.order_id
      FROM staging.orders AS parents
      WHERE
        parents.order_id = missing.parent_id
    ) IS NULL
  )
UNION ALL
SELECT
  @key_columns(this, @key),
  'not in staging' AS violation
FROM @this_model AS this
WHERE
  (
    SELECT
      counts.extra
    FROM counts
  ) <> 0
  AND @replaced(this)
  AND NOT EXISTS(
    SELECT
      1
    FROM @source AS source
    WHERE
      @keys_equal(source, this, @key)
  )
