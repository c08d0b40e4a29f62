MODEL (
  name marts.support_daily,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = created_date)
  ),
  owner support,
  tags (marts, support),
  grain (created_date, priority),
  description 'One row per local day and priority, and one for all of them, from the first day to the as-of day, days without tickets included. Answers: how many tickets came in, how fast were they answered and solved, and was the target met? Tickets count on the day of their creation, whenever they are answered. Excludes nothing.',
  column_descriptions (
    created_date = 'Local day of creation; joins marts.dim_dates.',
    priority = 'A priority of seeds.sla_targets, other, or all for the sum of them.',
    tickets_created = 'Tickets created on the day.',
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
  audits (grain_is_unique(columns := (created_date, priority)), tickets_reconcile)
);

WITH touched AS (
  SELECT
    created_date
  FROM staging.ticket_touches
  WHERE
    @loaded() AND NOT created_date IS NULL
  UNION
  SELECT
    COALESCE(days.date_day, present.created_date) AS created_date
  FROM marts.dim_dates AS days
  FULL OUTER JOIN marts.support_daily AS present
    ON days.date_day = present.created_date
  WHERE
    days.date_day IS NULL OR present.created_date IS NULL
  UNION
  /* a first reply becomes late when the as-of day passes the day it was due */
  SELECT
    tickets.created_date
  FROM marts.fct_tickets AS tickets
  CROSS JOIN (
    SELECT
      MAX(date_day) AS as_of_date
    FROM marts.dim_dates
  ) AS days
  CROSS JOIN (
    SELECT
      MAX(lines.created_date) AS as_of_date
    FROM marts.support_daily AS lines
  ) AS present
  WHERE
    tickets.first_reply_at IS NULL
    AND tickets.first_reply_due_date > LEAST(days.as_of_date, present.as_of_date)
    AND tickets.first_reply_due_date <= GREATEST(days.as_of_date, present.as_of_date)
), days AS (
  SELECT
    dates.date_day AS created_date,
    last_day.as_of_date
  FROM marts.dim_dates AS dates
  CROSS JOIN (
    SELECT
      MAX(date_day) AS as_of_date
    FROM marts.dim_dates
  ) AS last_day
  WHERE
    @touched(dates.date_day, created_date)
), lines AS (
  SELECT DISTINCT
    days.created_date,
    priorities.reported_priority AS priority
  FROM days
  CROSS JOIN staging.ticket_priorities AS priorities
), tickets AS (
  SELECT
    days.created_date,
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
    ON days.created_date = tickets.created_date
  INNER JOIN staging.ticket_priorities AS priorities
    ON tickets.priority = priorities.priority
  GROUP BY
    days.created_date,
    priorities.reported_priority
)
SELECT
  lines.created_date::DATE,
  lines.priority::TEXT,
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
  ON lines.created_date = tickets.created_date AND lines.priority = tickets.priority;

@create_index(created_date, priority, unique := TRUE)
