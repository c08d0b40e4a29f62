MODEL (
  name seeds.sla_targets,
  kind SEED (
    path '$root/seeds/sla_targets.csv'
  ),
  owner support,
  tags (seeds, support),
  grain priority,
  description 'One row per priority of a ticket and the time within which it is to be answered. A ticket of any other priority is reported as other, and has no target.',
  columns (
    priority TEXT,
    first_reply_minutes INT
  ),
  column_descriptions (
    priority = 'Priority, in lower case.',
    first_reply_minutes = 'Minutes of wall-clock time from creation to the first reply of an agent.'
  ),
  audits (
    unique_values(columns := priority),
    not_null(columns := (priority, first_reply_minutes)),
    forall(
      criteria := (
        priority = LOWER(TRIM(priority)),
        NOT priority IN ('all', 'other'),
        first_reply_minutes > 0
      )
    )
  )
)
