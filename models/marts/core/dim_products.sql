MODEL (
  name marts.dim_products,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = product_id)
  ),
  owner commerce,
  tags (marts, core),
  grain product_id,
  description 'One row per product, known or only named by an order line or a refund. Answers: what do we sell, in which category, of which brand? A product that no products file has described is kept as an unknown member: is_known is false and the attributes are unknown (docs/decisions/0006-unknown-members.md). Excludes earlier versions.',
  column_descriptions (
    product_id = 'Key of the product, as delivered.',
    is_known = 'True: a products file describes this product.',
    product_name = 'Name, or unknown.',
    category = 'Category, or unknown.',
    brand = 'Brand, or unknown.',
    list_price = 'List price, as delivered; NULL where unknown.',
    unit_cost = 'Cost of one unit, as delivered; NULL where unknown.'
  ),
  audits (
    grain_is_unique(columns := product_id)
  )
);

WITH touched AS (
  SELECT
    product_id
  FROM staging.product_touches
  WHERE
    @loaded() AND NOT product_id IS NULL
  GROUP BY
    product_id
), known AS (
  SELECT
    product_id,
    product_name,
    category,
    brand,
    list_price,
    unit_cost
  FROM staging.products
  WHERE
    @touched(product_id)
), named AS (
  SELECT
    product_id
  FROM (
    @named_keys(staging.order_items, product_id)
  ) AS in_order_items
  UNION
  SELECT
    product_id
  FROM (
    @named_keys(staging.refunds, product_id)
  ) AS in_refunds
  UNION
  SELECT
    product_id
  FROM known
)
SELECT
  named.product_id::TEXT,
  NOT known.product_id IS NULL AS is_known,
  COALESCE(known.product_name, 'unknown')::TEXT AS product_name,
  COALESCE(known.category, 'unknown')::TEXT AS category,
  COALESCE(known.brand, 'unknown')::TEXT AS brand,
  known.list_price::DECIMAL(18, 4),
  known.unit_cost::DECIMAL(18, 4)
FROM named
LEFT JOIN known
  ON named.product_id = known.product_id;

@create_index(product_id, unique := TRUE)
