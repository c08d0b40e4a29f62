MODEL (
  name ml.rfm_cells,
  kind FULL,
  owner data_science,
  tags (ml, customers),
  grain (recency_score, frequency_score, monetary_score, segment),
  description 'One row per recency, frequency and monetary score, and segment, that any customer has. Answers: how many customers bought recently, often and for much, and what do they bring in? Sums of ml.customer_segments, made in advance because that is read whole for each such question. Excludes guests.',
  column_descriptions (
    recency_score = '1 to 5, 5 the fifth of the customers that bought last.',
    frequency_score = '1 to 5, 5 the fifth that orders most often.',
    monetary_score = '1 to 5, 5 the fifth that brings in most.',
    segment = 'high_value, medium_value or low_value: that of marts.customer_lifetime.',
    customers = 'Customers with these scores, of this segment.',
    orders = 'Their counted orders.',
    net_revenue = 'Their net sales less refunds (order basis), in the reporting currency.'
  ),
  audits (
    grain_is_unique(columns := (recency_score, frequency_score, monetary_score, segment)),
    revenue_reconciles(facts := ml.customer_segments, totals := (orders, net_revenue))
  )
);

SELECT
  recency_score::INT,
  frequency_score::INT,
  monetary_score::INT,
  segment::TEXT,
  COUNT(*)::BIGINT AS customers,
  SUM(orders)::BIGINT AS orders,
  SUM(net_revenue)::DECIMAL(18, 4) AS net_revenue
FROM ml.customer_segments
GROUP BY
  recency_score,
  frequency_score,
  monetary_score,
  segment;

@create_index(recency_score, frequency_score, monetary_score, segment, unique := TRUE)
