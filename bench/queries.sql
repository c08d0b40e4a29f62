-- What analysts ask, as they ask it of the marts. `-- name:` starts a query; %(customer_id)s is a customer with orders.

-- name: revenue by day and segment
SELECT order_date, segment, orders, customers, net_sales, median_order_value
FROM marts.daily_segment_metrics
WHERE order_date > (SELECT MAX(date_day) FROM marts.dim_dates) - 365
ORDER BY order_date, segment;

-- name: top customers
SELECT customers.customer_id, customers.country_name, lifetimes.orders, lifetimes.net_revenue, lifetimes.segment
FROM marts.customer_lifetime AS lifetimes
INNER JOIN marts.dim_customers AS customers ON customers.customer_id = lifetimes.customer_id
ORDER BY lifetimes.net_revenue DESC, customers.customer_id
LIMIT 100;

-- name: cohort table
SELECT cohort_month, months_since, customers, cohort_size, retention_rate
FROM marts.cohort_retention
WHERE is_complete
ORDER BY cohort_month, months_since;

-- name: p50 and p90 by month
SELECT month, orders, p50, p90
FROM marts.order_value_percentiles
ORDER BY month;

-- name: rfm
SELECT recency_score, frequency_score, monetary_score, SUM(customers) AS customers, SUM(net_revenue) AS net_revenue
FROM ml.rfm_cells
GROUP BY recency_score, frequency_score, monetary_score
ORDER BY recency_score, frequency_score, monetary_score;

-- name: repeat rate
SELECT COUNT(*) FILTER (WHERE is_repeat_customer) / NULLIF(COUNT(*), 0)::DECIMAL AS repeat_customer_rate
FROM marts.customer_lifetime
WHERE orders > 0;

-- name: product ranking
SELECT ranked.revenue_rank, products.product_name, products.category, ranked.units, ranked.net_revenue
FROM marts.product_performance AS ranked
INNER JOIN marts.dim_products AS products ON products.product_id = ranked.product_id
WHERE ranked.month = (SELECT MAX(month) FROM marts.dim_dates WHERE is_month_complete)
ORDER BY ranked.revenue_rank, products.product_id
LIMIT 20;

-- name: support by priority
SELECT priority, SUM(tickets_created) AS tickets, SUM(tickets_solved) AS solved, SUM(sla_met_tickets) AS sla_met
FROM marts.support_daily
WHERE created_date > (SELECT MAX(date_day) FROM marts.dim_dates) - 90
GROUP BY priority
ORDER BY priority;

-- name: history of one customer
SELECT orders.order_id, orders.order_date, orders.status, orders.net_sales, items.product_id, items.units
FROM marts.fct_orders AS orders
INNER JOIN marts.fct_order_items AS items ON items.order_id = orders.order_id
WHERE orders.customer_id = %(customer_id)s
ORDER BY orders.order_date, orders.order_id, items.line_number;

-- name: backlog
SELECT date_day, priority, open_tickets
FROM marts.ticket_backlog
WHERE date_day > (SELECT MAX(date_day) FROM marts.dim_dates) - 90
ORDER BY date_day, priority;

-- name: new and returning
SELECT month, new_customers, returning_customers, repeat_customer_rate
FROM marts.new_vs_returning
ORDER BY month;

-- name: refunds by day
SELECT refund_date, COUNT(*) AS refund_count, SUM(refunds) AS refunds
FROM marts.fct_refunds
WHERE refund_date > (SELECT MAX(date_day) FROM marts.dim_dates) - 90
GROUP BY refund_date
ORDER BY refund_date;
