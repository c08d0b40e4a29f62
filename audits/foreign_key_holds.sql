AUDIT (
  name foreign_key_holds
);

/* Claim: every value of the column is a key of the parent. A returned row is a value without its parent, and how often it
occurs: restate the parent. */
SELECT
  children.orphan,
  children.row_count
FROM (
  /* few keys, many rows: each key is looked up once */
  SELECT
    this.@column AS orphan,
    COUNT(*) AS row_count
  FROM @this_model AS this
  WHERE
    NOT this.@column IS NULL AND @replaced(this)
  GROUP BY
    this.@column
) AS children
LEFT JOIN @parent AS parent
  ON children.orphan = parent.@key
WHERE
  parent.@key IS NULL
