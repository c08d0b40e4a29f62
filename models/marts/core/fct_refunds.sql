MODEL (
  name marts.fct_refunds,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = refund_id)
  ),
  owner commerce,
  clustered_by order_basis_date,
  tags (marts, core),
  depends_on (marts.dim_customers, marts.dim_dates, marts.dim_products),
  grain refund_id,
  description 'One row per refund that names no order or an order that has arrived. Answers: what was paid back, when, for which order and why? Refunds of cancelled orders are here with is_counted false and zero refunds. Excludes refunds whose order is missing, which wait in staging.',
  column_descriptions (
    refund_id = 'Key of the refund, as delivered.',
    order_id = 'Order refunded; joins marts.fct_orders; NULL where none is named.',
    line_number = 'Line refunded; NULL where none is named.',
    customer_id = 'Customer of the order, else the one the refund names; joins marts.dim_customers.',
    product_id = 'Product the refund names, else that of the line it names; joins marts.dim_products.',
    refunded_at = 'When it was paid back.',
    refund_date = 'Local day of refunded_at: the day of the refund on a cash basis; joins marts.dim_dates.',
    order_date = 'Local day of the order; NULL without an order.',
    order_basis_date = 'Day of the refund on an order basis: order_date, or refund_date without an order.',
    reason = 'Reason given.',
    is_counted = 'False for a refund of a cancelled order, which counts nowhere.',
    is_before_order = 'True: dated before its order.',
    is_above_order = 'True: larger than the net amount of its order.',
    quantity = 'Units returned.',
    currency = 'ISO 4217 code of amount: that of the order, without an order the reporting currency.',
    exchange_rate = 'Units of the reporting currency for one unit of this currency, on the local day of the order; 1 without an order.',
    amount = 'Amount paid back, without tax, in this currency.',
    refunds = 'amount at exchange_rate, in the reporting currency, where it counts, else zero.'
  ),
  audits (
    grain_is_unique(columns := refund_id),
    foreign_key_holds(column := customer_id, parent := marts.dim_customers, key := customer_id),
    foreign_key_holds(column := product_id, parent := marts.dim_products, key := product_id),
    foreign_key_holds(column := order_id, parent := staging.orders, key := order_id),
    foreign_key_holds(column := refund_date, parent := marts.dim_dates, key := date_day),
    no_facts_lost(source := staging.refunds, key := refund_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    refund_id
  FROM staging.refund_touches
  WHERE
    @loaded()
), refunds AS (
  SELECT
    refund_id,
    order_id,
    line_number,
    customer_id,
    product_id,
    quantity,
    amount,
    reason,
    refunded_at
  FROM staging.refunds
  WHERE
    @touched(refund_id)
), order_totals AS (
  SELECT
    lines.order_id,
    SUM(lines.gross_amount - lines.discount_amount) AS net_amount
  FROM staging.order_items AS lines
  WHERE
    lines.order_id IN (
      SELECT
        order_id
      FROM refunds
    )
  GROUP BY
    lines.order_id
), joined AS (
  SELECT
    refunds.refund_id,
    refunds.order_id,
    refunds.line_number,
    CASE
      WHEN refunds.order_id IS NULL
      THEN refunds.customer_id
      ELSE orders.customer_id
    END AS customer_id,
    COALESCE(refunds.product_id, lines.product_id) AS product_id,
    refunds.refunded_at,
    @local_date(refunds.refunded_at) AS refund_date,
    orders.order_date,
    COALESCE(orders.order_date, @local_date(refunds.refunded_at)) AS order_basis_date,
    refunds.reason,
    COALESCE(orders.is_counted, TRUE) AS is_counted,
    COALESCE(refunds.refunded_at < orders.ordered_at, FALSE) AS is_before_order,
    NOT refunds.order_id IS NULL
    AND refunds.amount > COALESCE(order_totals.net_amount, 0) AS is_above_order,
    refunds.quantity,
    CASE WHEN refunds.order_id IS NULL THEN @reporting_currency ELSE orders.currency END AS currency,
    CASE WHEN refunds.order_id IS NULL THEN 1 ELSE orders.exchange_rate END AS exchange_rate,
    refunds.amount
  FROM refunds
  LEFT JOIN staging.orders AS orders
    ON refunds.order_id = orders.order_id
  LEFT JOIN staging.order_items AS lines
    ON refunds.order_id = lines.order_id AND refunds.line_number = lines.line_number
  LEFT JOIN order_totals
    ON refunds.order_id = order_totals.order_id
  WHERE
    refunds.order_id IS NULL OR NOT orders.order_id IS NULL
)
SELECT
  refund_id::TEXT,
  order_id::TEXT,
  line_number::INT,
  customer_id::TEXT,
  product_id::TEXT,
  refunded_at::TIMESTAMPTZ,
  refund_date::DATE,
  order_date::DATE,
  order_basis_date::DATE,
  reason::TEXT,
  is_counted::BOOLEAN,
  is_before_order::BOOLEAN,
  is_above_order::BOOLEAN,
  quantity::DECIMAL(18, 4),
  currency::TEXT,
  exchange_rate::DECIMAL(20, 12),
  amount::DECIMAL(18, 4),
  CASE WHEN is_counted THEN amount * exchange_rate ELSE 0 END::DECIMAL(18, 4) AS refunds
FROM joined;

@create_index(refund_id, unique := TRUE);

@create_index(order_id);

@create_index(customer_id);

@create_index(refund_date, refunds);

@create_index(order_basis_date)
