MODEL (
  name seeds.order_statuses,
  kind SEED (
    path '$root/seeds/order_statuses.csv'
  ),
  owner commerce,
  tags (seeds, commerce),
  grain status,
  description 'One row per status that an order can have. An order of a status that does not count is left out of every metric, with its lines and refunds.',
  columns (
    status TEXT,
    is_counted BOOLEAN
  ),
  column_descriptions (
    status = 'Status of the order, as the landing contract spells it.',
    is_counted = 'Whether an order of this status counts.'
  ),
  audits (unique_values(columns := status), not_null(columns := (status, is_counted)))
)
