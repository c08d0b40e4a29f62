AUDIT (
  name history_is_gapless
);

/* Claim: each period ends where the next of its key begins, and the last one is open. A returned row is a period that does not,
or that ends before it begins: restate this model. */
SELECT
  periods.@key,
  periods.valid_from,
  periods.valid_to,
  periods.next_valid_from
FROM (
  SELECT
    @key,
    valid_from,
    valid_to,
    LEAD(valid_from) OVER (PARTITION BY @key ORDER BY valid_from) AS next_valid_from
  FROM @this_model AS this
  WHERE
    @replaced(this)
) AS periods
WHERE
  periods.valid_to IS DISTINCT FROM periods.next_valid_from
  OR periods.valid_to <= periods.valid_from
