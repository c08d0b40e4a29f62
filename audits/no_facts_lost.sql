AUDIT (
  name no_facts_lost,
  defaults (
    waits = TRUE
  )
);

/* Claim: staging records and rows of this fact are the same keys, but for those that wait for an order that has not arrived
(waits := FALSE: nothing waits). A returned row is a key on one side only: restate this model. */
WITH sides AS (
  /* where the keys are the same, nothing has to be looked up */
  SELECT
    here.keys IS DISTINCT FROM there.keys AS differ
  FROM (
    SELECT
      @fingerprint(this, @key) AS keys
    FROM @this_model AS this
    WHERE
      @replaced(this)
  ) AS here
  CROSS JOIN (
    SELECT
      @fingerprint(source, @key) AS keys
    FROM @source AS source
    WHERE
      @replaced(source)
  ) AS there
)
SELECT
  @key_columns(source, @key),
  'missing here' AS violation
FROM @source AS source
WHERE
  (
    SELECT
      sides.differ
    FROM sides
  )
  AND @replaced(source)
  AND NOT EXISTS(
    SELECT
      1
    FROM @this_model AS this
    WHERE
      @keys_equal(source, this, @key)
  )
  AND NOT (
    @waits
    AND NOT source.order_id IS NULL
    AND (
      /* one row, so looked up for each that is missing; NOT EXISTS would hash all orders */
      SELECT
        parents.order_id
      FROM staging.orders AS parents
      WHERE
        parents.order_id = source.order_id
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
      sides.differ
    FROM sides
  )
  AND @replaced(this)
  AND NOT EXISTS(
    SELECT
      1
    FROM @source AS source
    WHERE
      @keys_equal(source, this, @key)
  )
