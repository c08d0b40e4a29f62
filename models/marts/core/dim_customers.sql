MODEL (
  name marts.dim_customers,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  tags (marts, core),
  grain customer_id,
  description 'One row per customer, known or only named by an order, a refund or a ticket. Answers: who buys, from where, since when? Excludes e-mail and name, which are personal data (marts_pii.customers). A customer that no customers file has described is kept as an unknown member: is_known is false and the attributes are unknown (docs/decisions/0006-unknown-members.md).',
  column_descriptions (
    customer_id = 'Key of the customer, as delivered.',
    is_known = 'True: a customers file describes this customer.',
    country_code = 'ISO 3166 code of two letters, or unknown.',
    country_name = 'Name of the country, or unknown.',
    created_at = 'When the customer was created; NULL where unknown.',
    created_date = 'Local day of created_at.',
    email_hash = 'Keyed hash of the e-mail address: equal where the addresses are, and nobody can tell the address from it; joins marts_pii.customers. NULL where unknown.'
  ),
  audits (
    grain_is_unique(columns := customer_id)
  )
);

WITH touched AS (
  SELECT
    customer_id
  FROM staging.customer_versions
  WHERE
    @loaded()
  UNION
  SELECT
    customer_id
  FROM staging.order_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
  UNION
  SELECT
    customer_id
  FROM staging.refund_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
  UNION
  SELECT
    customer_id
  FROM staging.ticket_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
), known AS (
  SELECT
    customer_id,
    email_hash,
    country_code,
    country_name,
    created_at
  FROM staging.customers
  WHERE
    @touched(customer_id)
), named AS (
  SELECT
    customer_id
  FROM (
    @named_keys(staging.orders, customer_id)
  ) AS in_orders
  UNION
  SELECT
    customer_id
  FROM (
    @named_keys(staging.refunds, customer_id)
  ) AS in_refunds
  UNION
  SELECT
    customer_id
  FROM (
    @named_keys(staging.tickets, customer_id)
  ) AS in_tickets
  UNION
  SELECT
    customer_id
  FROM known
)
SELECT
  named.customer_id::TEXT,
  NOT known.customer_id IS NULL AS is_known,
  COALESCE(known.country_code, 'unknown')::TEXT AS country_code,
  COALESCE(known.country_name, 'unknown')::TEXT AS country_name,
  known.created_at::TIMESTAMPTZ,
  @local_date(known.created_at) AS created_date,
  known.email_hash::TEXT
FROM named
LEFT JOIN known
  ON named.customer_id = known.customer_id;

@create_index(customer_id, unique := TRUE)
