MODEL (
  name marts.customer_support,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner support,
  clustered_by customer_id,
  tags (marts, support),
  depends_on (
    marts.dim_customers
  ),
  grain (customer_id, month),
  description 'One row per customer and local month with a counted order, a ticket, or a refund that names the customer and no order. Answers: how many tickets does an order cost, and which refunds follow a ticket? Orders and refunds as in marts.customer_metrics: refunds lie in the month of their order. Excludes guests, cancelled orders, and tickets that name no customer.',
  column_descriptions (
    customer_id = 'Customer; joins marts.dim_customers.',
    month = 'First day of the local month of the orders and of the creation of the tickets.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    orders = 'Counted orders.',
    tickets = 'Tickets created.',
    reopened_tickets = 'Of these, those that were solved more than once.',
    tickets_per_order = 'tickets divided by orders; NULL without orders.',
    refunds = 'Refunds of these orders whenever paid back, and refunds of the month without an order, in the reporting currency.',
    refunds_after_ticket = 'Of these, those paid back within refund_after_ticket_days (a variable) local days after the creation of a ticket of the customer.'
  ),
  audits (
    grain_is_unique(columns := (customer_id, month)),
    foreign_key_holds(column := customer_id, parent := marts.dim_customers, key := customer_id),
    revenue_reconciles(facts := marts.customer_metrics, totals := refunds)
  )
);

WITH touched AS (
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
  UNION
  SELECT
    present.customer_id
  FROM marts.customer_support AS present
  CROSS JOIN (
    SELECT
      MIN(turned.month) AS first_month,
      MAX(turned.month) AS last_month
    FROM (
      @turned_months(marts.customer_support, customer_id)
    ) AS turned
  ) AS changed
  WHERE
    present.month BETWEEN changed.first_month AND changed.last_month
), tickets AS (
  SELECT
    ticket_id,
    customer_id,
    created_at,
    created_date,
    is_reopened
  FROM marts.fct_tickets
  WHERE
    NOT customer_id IS NULL AND @touched(customer_id)
), refunds AS (
  SELECT
    refund_id,
    customer_id,
    refunded_at,
    refund_date,
    order_basis_date,
    refunds
  FROM marts.fct_refunds
  WHERE
    is_counted AND NOT customer_id IS NULL AND @touched(customer_id)
), activity AS (
  SELECT
    customer_id,
    order_date AS activity_date,
    orders,
    0 AS tickets,
    0 AS reopened_tickets,
    refunds,
    0 AS refunds_after_ticket
  FROM marts.customer_metrics
  WHERE
    @touched(customer_id)
  UNION ALL
  SELECT
    customer_id,
    created_date AS activity_date,
    0 AS orders,
    1 AS tickets,
    CASE WHEN is_reopened THEN 1 ELSE 0 END AS reopened_tickets,
    0 AS refunds,
    0 AS refunds_after_ticket
  FROM tickets
  UNION ALL
  SELECT
    refunds.customer_id,
    refunds.order_basis_date AS activity_date,
    0 AS orders,
    0 AS tickets,
    0 AS reopened_tickets,
    0 AS refunds,
    refunds.refunds AS refunds_after_ticket
  FROM refunds
  WHERE
    EXISTS(
      SELECT
        1
      FROM tickets
      WHERE
        tickets.customer_id = refunds.customer_id
        AND tickets.created_at <= refunds.refunded_at
        AND tickets.created_date >= refunds.refund_date - @refund_after_ticket_days
    )
), months AS (
  SELECT
    activity.customer_id,
    dates.month,
    dates.is_month_complete AS is_complete,
    SUM(activity.orders) AS orders,
    SUM(activity.tickets) AS tickets,
    SUM(activity.reopened_tickets) AS reopened_tickets,
    SUM(activity.refunds) AS refunds,
    SUM(activity.refunds_after_ticket) AS refunds_after_ticket
  FROM activity
  INNER JOIN marts.dim_dates AS dates
    ON activity.activity_date = dates.date_day
  GROUP BY
    activity.customer_id,
    dates.month,
    dates.is_month_complete
)
SELECT
  customer_id::TEXT,
  month::DATE,
  is_complete::BOOLEAN,
  orders::BIGINT,
  tickets::BIGINT,
  reopened_tickets::BIGINT,
  @ratio(tickets, orders) AS tickets_per_order,
  refunds::DECIMAL(18, 4),
  refunds_after_ticket::DECIMAL(18, 4)
FROM months;

@create_index(customer_id, month, unique := TRUE);

@create_index(month, customer_id)
