MODEL (
  name marts.support_monthly,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
  owner support,
  tags (marts, support),
  grain (month, priority),
  description 'One row per local month and priority, and one for all of them, from the first month to that of the as-of day, months without tickets included. Answers: how many tickets came in, how fast were they answered and solved, and was the target met? Tickets count in the month of their creation, whenever they are answered. Excludes nothing.',
  column_descriptions (
    month = 'First day of the local month of creation.',
    priority = 'A priority of seeds.sla_targets, other, or all for the sum of them.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    tickets_created = 'Tickets created in the month.',
    tickets_replied = 'Of these, those that an agent has replied to by now.',
    tickets_solved = 'Of these, those that have been solved by now.',
    reopened_tickets = 'Of these, those that were solved more than once.',
    first_reply_minutes_p50 = 'Median of the minutes to the first reply, of those replied to; NULL where there are none.',
    first_reply_minutes_p90 = 'Minutes to the first reply that 90 % of them do not exceed.',
    first_resolution_minutes_p50 = 'Median of the minutes to the first solution, of those solved; NULL where there are none.',
    first_resolution_minutes_p90 = 'Minutes to the first solution that 90 % of them do not exceed.',
    full_resolution_minutes_p50 = 'Median of the minutes to the last solution, of those solved; NULL where there are none.',
    full_resolution_minutes_p90 = 'Minutes to the last solution that 90 % of them do not exceed.',
    sla_met_tickets = 'Of the tickets with a target, those with a first reply in time.',
    sla_missed_tickets = 'Of the tickets with a target, those with a late first reply, or with none by an as-of day on which it was due.',
    sla_met_rate = 'sla_met_tickets divided by sla_met_tickets and sla_missed_tickets; NULL where both are 0.'
  ),
  audits (grain_is_unique(columns := (month, priority)), tickets_reconcile)
);

WITH touched AS (
  SELECT
    DATE_TRUNC('MONTH', created_date)::DATE AS month
  FROM staging.ticket_touches
  WHERE
    @loaded() AND NOT created_date IS NULL
  UNION
  SELECT
    COALESCE(spine.month, present.month) AS month
  FROM (
    SELECT DISTINCT
      month,
      is_month_complete
    FROM marts.dim_dates
  ) AS spine
  FULL OUTER JOIN marts.support_monthly AS present
    ON spine.month = present.month
  WHERE
    spine.month IS NULL
    OR present.month IS NULL
    OR spine.is_month_complete <> present.is_complete
  UNION
  /* a first reply becomes late when the as-of day passes the day it was due */
  SELECT
    present.month
  FROM marts.support_monthly AS present
  INNER JOIN (
    SELECT
      days.month,
      daily.priority,
      SUM(daily.sla_missed_tickets) AS sla_missed_tickets
    FROM marts.dim_dates AS days
    INNER JOIN marts.support_daily AS daily
      ON days.date_day = daily.created_date
    GROUP BY
      days.month,
      daily.priority
  ) AS daily
    ON present.month = daily.month AND present.priority = daily.priority
  WHERE
    present.sla_missed_tickets <> daily.sla_missed_tickets
), days AS (
  SELECT
    dates.date_day,
    dates.month,
    dates.is_month_complete,
    last_day.as_of_date
  FROM marts.dim_dates AS dates
  CROSS JOIN (
    SELECT
      MAX(date_day) AS as_of_date
    FROM marts.dim_dates
  ) AS last_day
  WHERE
    @touched(dates.month)
), lines AS (
  SELECT DISTINCT
    days.month,
    priorities.reported_priority AS priority,
    days.is_month_complete AS is_complete
  FROM days
  CROSS JOIN staging.ticket_priorities AS priorities
), tickets AS (
  SELECT
    days.month,
    priorities.reported_priority AS priority,
    COUNT(*) AS tickets_created,
    COUNT(tickets.first_reply_at) AS tickets_replied,
    COUNT(tickets.first_resolution_at) AS tickets_solved,
    SUM(CASE WHEN tickets.is_reopened THEN 1 ELSE 0 END) AS reopened_tickets,
    @percentile_agg(tickets.first_reply_minutes, ARRAY[0.5, 0.9], first_reply_minutes),
    @percentile_agg(tickets.first_resolution_minutes, ARRAY[0.5, 0.9], first_resolution_minutes),
    @percentile_agg(tickets.full_resolution_minutes, ARRAY[0.5, 0.9], full_resolution_minutes),
    SUM(CASE WHEN tickets.is_sla_met THEN 1 ELSE 0 END) AS sla_met_tickets,
    SUM(
      CASE
        WHEN NOT tickets.is_sla_met
        THEN 1
        WHEN tickets.first_reply_at IS NULL
        AND tickets.first_reply_due_date <= days.as_of_date
        THEN 1
        ELSE 0
      END
    ) AS sla_missed_tickets
  FROM days
  INNER JOIN marts.fct_tickets AS tickets
    ON days.date_day = tickets.created_date
  INNER JOIN staging.ticket_priorities AS priorities
    ON tickets.priority = priorities.priority
  GROUP BY
    days.month,
    priorities.reported_priority
)
SELECT
  lines.month::DATE,
  lines.priority::TEXT,
  lines.is_complete::BOOLEAN,
  COALESCE(tickets.tickets_created, 0)::BIGINT AS tickets_created,
  COALESCE(tickets.tickets_replied, 0)::BIGINT AS tickets_replied,
  COALESCE(tickets.tickets_solved, 0)::BIGINT AS tickets_solved,
  COALESCE(tickets.reopened_tickets, 0)::BIGINT AS reopened_tickets,
  tickets.first_reply_minutes_p50::DECIMAL(18, 4),
  tickets.first_reply_minutes_p90::DECIMAL(18, 4),
  tickets.first_resolution_minutes_p50::DECIMAL(18, 4),
  tickets.first_resolution_minutes_p90::DECIMAL(18, 4),
  tickets.full_resolution_minutes_p50::DECIMAL(18, 4),
  tickets.full_resolution_minutes_p90::DECIMAL(18, 4),
  COALESCE(tickets.sla_met_tickets, 0)::BIGINT AS sla_met_tickets,
  COALESCE(tickets.sla_missed_tickets, 0)::BIGINT AS sla_missed_tickets,
  @ratio(tickets.sla_met_tickets, tickets.sla_met_tickets + tickets.sla_missed_tickets) AS sla_met_rate
FROM lines
LEFT JOIN tickets
  ON lines.month = tickets.month AND lines.priority = tickets.priority;

@create_index(month, priority, unique := TRUE)
