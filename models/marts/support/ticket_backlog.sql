MODEL (
  name marts.ticket_backlog,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = date_day)
  ),
  owner support,
  tags (marts, support),
  grain (date_day, priority),
  description 'One row per local day and priority, and one for all of them, from the first to the as-of day. Answers: how many tickets were open at the end of the day? Open: created by then, and the last event by then that sets a status is neither solved nor closed. A ticket lies in the priority it has now. Excludes replies and assignments, which set no status.',
  column_descriptions (
    date_day = 'Local day; joins marts.dim_dates.',
    priority = 'A priority of seeds.sla_targets, other, or all for the sum of them.',
    opened_tickets = 'Tickets open at the end of this day and not at the end of the day before.',
    closed_tickets = 'Tickets open at the end of the day before and not at the end of this day.',
    open_tickets = 'Tickets open at the end of the day.'
  ),
  audits (grain_is_unique(columns := (date_day, priority)), backlog_reconciles)
);

WITH touched AS (
  /* a ticket is open or not on every day since its creation */
  SELECT
    days.date_day
  FROM marts.dim_dates AS days
  WHERE
    days.date_day >= (
      SELECT
        MIN(created_date)
      FROM staging.ticket_touches
      WHERE
        @loaded()
    )
  UNION
  SELECT
    COALESCE(days.date_day, present.date_day) AS date_day
  FROM marts.dim_dates AS days
  FULL OUTER JOIN marts.ticket_backlog AS present
    ON days.date_day = present.date_day
  WHERE
    days.date_day IS NULL OR present.date_day IS NULL
), days AS (
  SELECT
    date_day
  FROM marts.dim_dates
  WHERE
    @touched(date_day)
), bounds AS (
  SELECT
    MIN(date_day) AS first_date
  FROM days
), periods AS (
  SELECT
    periods.open_from,
    periods.open_to,
    priorities.reported_priority AS priority,
    bounds.first_date
  FROM staging.ticket_open_periods AS periods
  INNER JOIN staging.ticket_priorities AS priorities
    ON periods.priority = priorities.priority
  CROSS JOIN bounds
  WHERE
    periods.open_to IS NULL OR periods.open_to >= bounds.first_date
), changes AS (
  /* what was open before the first of these days is its opening balance */
  SELECT
    GREATEST(open_from, first_date) AS date_day,
    priority,
    1 AS balance,
    CASE WHEN open_from >= first_date THEN 1 ELSE 0 END AS opened,
    0 AS closed
  FROM periods
  UNION ALL
  SELECT
    open_to AS date_day,
    priority,
    -1 AS balance,
    0 AS opened,
    1 AS closed
  FROM periods
  WHERE
    NOT open_to IS NULL
), daily AS (
  SELECT
    date_day,
    priority,
    SUM(balance) AS balance,
    SUM(opened) AS opened,
    SUM(closed) AS closed
  FROM changes
  GROUP BY
    date_day,
    priority
), lines AS (
  SELECT DISTINCT
    spine.date_day,
    priorities.reported_priority AS priority
  FROM marts.dim_dates AS spine
  INNER JOIN bounds
    ON spine.date_day >= bounds.first_date
  CROSS JOIN staging.ticket_priorities AS priorities
), balances AS (
  SELECT
    lines.date_day,
    lines.priority,
    COALESCE(daily.opened, 0) AS opened_tickets,
    COALESCE(daily.closed, 0) AS closed_tickets,
    SUM(COALESCE(daily.balance, 0)) OVER (
      PARTITION BY lines.priority
      ORDER BY lines.date_day
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS open_tickets
  FROM lines
  LEFT JOIN daily
    ON lines.date_day = daily.date_day AND lines.priority = daily.priority
)
SELECT
  date_day::DATE,
  priority::TEXT,
  opened_tickets::BIGINT,
  closed_tickets::BIGINT,
  open_tickets::BIGINT
FROM balances
WHERE
  @touched(date_day);

@create_index(date_day, priority, unique := TRUE)
