MODEL (
  name marts.fct_order_items,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = order_id)
  ),
  owner commerce,
  clustered_by order_date,
  tags (marts, core),
  depends_on (
    marts.dim_products
  ),
  grain (order_id, line_number),
  description 'One row per line of an order that has arrived. Answers: what was sold, in which order, at what price? Lines of cancelled orders are here with is_counted false and nothing in the columns of revenue. Excludes lines whose order is missing, which wait in staging.',
  column_descriptions (
    order_id = 'Order of the line; joins marts.fct_orders.',
    line_number = 'Number of the line in its order.',
    product_id = 'Product sold; joins marts.dim_products.',
    customer_id = 'Customer of the order; joins marts.dim_customers; NULL for a guest.',
    order_date = 'Local day of the order.',
    order_month = 'First day of the local month of the order.',
    is_counted = 'False for a line of a cancelled order, which counts nowhere.',
    currency = 'ISO 4217 code of the amounts.',
    quantity = 'Units ordered.',
    gross_amount = 'Line total before discount, without tax, in the currency of the order.',
    discount_amount = 'Discount, in the currency of the order.',
    net_amount = 'gross_amount less discount_amount, in the currency of the order.',
    tax_amount = 'Tax, in the currency of the order.',
    units = 'Units sold: quantity where the order counts, else zero.',
    gross_revenue = 'gross_amount in the reporting currency where the order counts, else zero.',
    discounts = 'discount_amount in the reporting currency where the order counts, else zero.',
    net_sales = 'gross_revenue less discounts.',
    tax = 'tax_amount in the reporting currency where the order counts, else zero; never revenue.',
    is_first_of_product = 'True for one line of each product in an order: counting these counts orders, without DISTINCT.'
  ),
  audits (
    grain_is_unique(columns := (order_id, line_number)),
    no_facts_lost(source := staging.order_items, key := (order_id, line_number)),
    foreign_key_holds(column := product_id, parent := marts.dim_products, key := product_id),
    revenue_consistency
  )
);

WITH touched AS (
  SELECT DISTINCT
    order_id
  FROM staging.order_touches
  WHERE
    @loaded()
), orders AS (
  SELECT
    order_id,
    customer_id,
    order_date,
    is_counted,
    currency,
    exchange_rate,
    CASE WHEN is_counted THEN exchange_rate ELSE 0 END AS revenue_rate
  FROM staging.orders
  WHERE
    @touched(order_id)
), lines AS (
  SELECT
    order_id,
    line_number,
    product_id,
    quantity,
    gross_amount,
    discount_amount,
    tax_amount,
    ROW_NUMBER() OVER (PARTITION BY order_id, product_id ORDER BY line_number) = 1 AS is_first_of_product
  FROM staging.order_items
  WHERE
    @touched(order_id)
), converted AS (
  SELECT
    lines.order_id,
    lines.line_number,
    lines.product_id,
    orders.customer_id,
    orders.order_date,
    DATE_TRUNC('MONTH', orders.order_date)::DATE AS order_month,
    orders.is_counted,
    orders.currency,
    lines.quantity,
    lines.gross_amount,
    lines.discount_amount,
    lines.gross_amount - lines.discount_amount AS net_amount,
    lines.tax_amount,
    CASE WHEN orders.is_counted THEN lines.quantity ELSE 0 END AS units,
    CAST(lines.gross_amount * orders.revenue_rate AS DECIMAL(18, 4)) AS gross_revenue,
    CAST(lines.discount_amount * orders.revenue_rate AS DECIMAL(18, 4)) AS discounts,
    CAST(lines.tax_amount * orders.revenue_rate AS DECIMAL(18, 4)) AS tax,
    lines.is_first_of_product
  FROM lines
  INNER JOIN orders
    ON lines.order_id = orders.order_id
)
SELECT
  order_id::TEXT,
  line_number::INT,
  product_id::TEXT,
  customer_id::TEXT,
  order_date::DATE,
  order_month::DATE,
  is_counted::BOOLEAN,
  currency::TEXT,
  quantity::DECIMAL(18, 4),
  gross_amount::DECIMAL(18, 4),
  discount_amount::DECIMAL(18, 4),
  net_amount::DECIMAL(18, 4),
  tax_amount::DECIMAL(18, 4),
  units::DECIMAL(18, 4),
  gross_revenue::DECIMAL(18, 4),
  discounts::DECIMAL(18, 4),
  CAST(gross_revenue - discounts AS DECIMAL(18, 4)) AS net_sales,
  tax::DECIMAL(18, 4),
  is_first_of_product::BOOLEAN
FROM converted;

@create_index(order_id, line_number, unique := TRUE);

@create_index(product_id, order_month);

@create_index(order_date)
