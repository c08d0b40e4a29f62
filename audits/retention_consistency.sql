AUDIT (
  name retention_consistency
);

/* Claim: in its first month all of a cohort are there, and later never more. A returned row is a cell in which they are not:
restate this model. */
SELECT
  cohort_month,
  months_since,
  customers,
  cohort_size
FROM @this_model AS this
WHERE
  @replaced(this)
  AND (
    customers > cohort_size
    OR cohort_size <= 0
    OR (
      months_since = 0 AND customers <> cohort_size
    )
  )
