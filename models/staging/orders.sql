MODEL (
  name staging.orders,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = order_id)
  ),
  owner commerce,
  tags (staging, commerce),
  depends_on (
    seeds.exchange_rates
  ),
  grain order_id,
  description 'One row per order that exists at the source: the newest version of each, with its local day, whether it counts, and its exchange rate.',
  column_descriptions (
    order_id = 'Key of the order, as delivered.',
    customer_id = 'Customer; NULL for a guest.',
    status = 'placed, shipped, delivered or cancelled.',
    is_counted = 'False for a cancelled order, which counts nowhere.',
    currency = 'ISO 4217 code of the amounts.',
    exchange_rate = 'Units of the reporting currency for one unit of this currency on the local day; NULL where no rate is known.',
    shipping_amount = 'Shipping charged, in this currency; nothing delivered is zero.',
    ordered_at = 'When it was ordered.',
    order_date = 'Local day of the order.',
    updated_at = 'Clock of the version shown.'
  ),
  audits (
    grain_is_unique(columns := order_id),
    no_rows_lost(source := raw.orders, key := order_id),
    currency_has_rate(rate := exchange_rate),
    rates_are_recent
  )
);

WITH touched AS (
  SELECT DISTINCT
    order_id
  FROM raw.orders
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (order_id)
    order_id,
    customer_id,
    status,
    currency,
    shipping_amount,
    ordered_at,
    @local_date(ordered_at) AS order_date,
    updated_at,
    _deleted
  FROM raw.orders
  WHERE
    @landed() AND @touched(order_id)
  ORDER BY
    order_id,
    updated_at DESC,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
SELECT
  versions.order_id::TEXT,
  versions.customer_id::TEXT,
  versions.status::TEXT,
  statuses.is_counted::BOOLEAN,
  versions.currency::TEXT,
  CASE
    WHEN versions.currency = @reporting_currency
    THEN 1
    ELSE rates.exchange_rate
  END::DECIMAL(20, 12) AS exchange_rate,
  COALESCE(versions.shipping_amount, 0)::DECIMAL(18, 4) AS shipping_amount,
  versions.ordered_at::TIMESTAMPTZ,
  versions.order_date::DATE,
  versions.updated_at::TIMESTAMPTZ
FROM versions
INNER JOIN seeds.order_statuses AS statuses
  ON versions.status = statuses.status
LEFT JOIN staging.exchange_rates AS rates
  ON versions.currency = rates.currency AND versions.order_date = rates.rate_date
WHERE
  NOT versions._deleted;

@create_index(order_id, unique := TRUE);

@create_index(customer_id);

@create_index(ordered_at)
