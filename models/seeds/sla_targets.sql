MODEL (
  name seeds.sla_targets,
  kind SEED (
    path '$root/seeds/sla_targets.csv'
  ),
  owner commerce,
  tags (seeds, commerce),
  grain priority,
  description 'One row per thing.',
  columns (
    priority TEXT,
    first_reply_minutes INT
  ),
  column_descriptions (priority = 'P.', first_reply_minutes = 'M.')
)
