AUDIT (
  name no_facts_lost,
  defaults (
    waits = TRUE
  )
);

/* Claim: staging records and rows of this fact are the same keys, but for those that wait for an order that has not arrived
(waits := FALSE: nothing waits). A returned row is a key on one side only: restate this model. */
SELECT
  @key_columns(source, @key),
  'missing here' AS violation
FROM @source AS source
LEFT JOIN staging.orders AS parents
  ON source.order_id = parents.order_id
WHERE
  NOT (
    @waits AND NOT source.order_id IS NULL AND parents.order_id IS NULL
  )
  AND @replaced(source)
  AND NOT EXISTS(
    SELECT
      1
    FROM @this_model AS this
    WHERE
      @keys_equal(source, this, @key)
  )
UNION ALL
SELECT
  @key_columns(this, @key),
  'not in staging' AS violation
FROM @this_model AS this
WHERE
  @replaced(this)
  AND NOT EXISTS(
    SELECT
      1
    FROM @source AS source
    WHERE
      @keys_equal(source, this, @key)
  )
