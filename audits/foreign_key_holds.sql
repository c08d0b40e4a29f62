AUDIT (
  name foreign_key_holds
);

/* Claim: every value of the column is a key of the parent. A returned row is a value without its parent, and how often it
occurs: restate the parent. */
SELECT
  this.@column AS orphan,
  COUNT(*) AS row_count
FROM @this_model AS this
LEFT JOIN @parent AS parent
  ON this.@column = parent.@key
WHERE
  NOT this.@column IS NULL AND parent.@key IS NULL AND @replaced(this)
GROUP BY
  this.@column
