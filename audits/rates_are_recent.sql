AUDIT (
  name rates_are_recent,
  blocking FALSE
);

/* Claim: no order in a foreign currency lies more than a week after the last rate of seeds/exchange_rates.csv. A returned row
counts those of a currency, which take that last rate for now: refresh the seed (make reference-data) and deploy, and they take
their own. Does not block, because rates are published with a delay; after 45 days currency_has_rate does. */
SELECT
  this.currency,
  COUNT(*) AS orders,
  MIN(this.order_date) AS first_order_date,
  MAX(this.order_date) AS last_order_date
FROM @this_model AS this
WHERE
  this.is_counted
  AND this.currency <> @reporting_currency
  AND this.ordered_at >= (
    SELECT
      CAST(MAX(rates.rate_date) + 7 AS TIMESTAMPTZ)
    FROM seeds.exchange_rates AS rates
  )
  AND this.order_date > (
    SELECT
      MAX(rates.rate_date) + 7
    FROM seeds.exchange_rates AS rates
  )
GROUP BY
  this.currency
