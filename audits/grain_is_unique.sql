AUDIT (
  name grain_is_unique
);

/* Claim: no two rows share the grain. A returned row is a grain that occurs more than once; or, on an engine with unique
indexes, says that the index which proves it is missing: build the model anew (runbook: failed run). */
SELECT
  *
FROM (
  @grain_violations(@columns)
) AS violations
