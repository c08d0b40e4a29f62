MODEL (
  name staging.exchange_rates,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = rate_date)
  ),
  owner finance,
  tags (staging, finance),
  grain (currency, rate_date),
  description 'One row per currency and calendar day: what one unit is worth in the reporting currency, at the rate of the last business day. A rate is carried for seven days at most, so that a file of rates that ends early is noticed.',
  column_descriptions (
    currency = 'ISO 4217 code.',
    rate_date = 'Calendar day.',
    exchange_rate = 'Units of the reporting currency for one unit of this currency.'
  ),
  audits (
    grain_is_unique(columns := (currency, rate_date))
  )
);

WITH touched AS (
  /* a seed changes only by a plan, and a plan builds this table anew */
  SELECT
    rate_date
  FROM seeds.exchange_rates
  WHERE
    FALSE
), business_days AS (
  SELECT
    rate_date,
    LEAD(rate_date) OVER (ORDER BY rate_date) AS next_rate_date,
    usd,
    gbp,
    jpy,
    chf,
    cad,
    aud,
    sek,
    dkk,
    nok,
    pln,
    czk,
    huf,
    cny,
    inr,
    brl,
    mxn
  FROM seeds.exchange_rates
), per_euro AS (
  SELECT
    business_days.rate_date + carried.days AS rate_date,
    currencies.currency,
    CASE currencies.currency
      WHEN 'EUR'
      THEN 1
      WHEN 'USD'
      THEN business_days.usd
      WHEN 'GBP'
      THEN business_days.gbp
      WHEN 'JPY'
      THEN business_days.jpy
      WHEN 'CHF'
      THEN business_days.chf
      WHEN 'CAD'
      THEN business_days.cad
      WHEN 'AUD'
      THEN business_days.aud
      WHEN 'SEK'
      THEN business_days.sek
      WHEN 'DKK'
      THEN business_days.dkk
      WHEN 'NOK'
      THEN business_days.nok
      WHEN 'PLN'
      THEN business_days.pln
      WHEN 'CZK'
      THEN business_days.czk
      WHEN 'HUF'
      THEN business_days.huf
      WHEN 'CNY'
      THEN business_days.cny
      WHEN 'INR'
      THEN business_days.inr
      WHEN 'BRL'
      THEN business_days.brl
      WHEN 'MXN'
      THEN business_days.mxn
    END AS units_per_euro
  FROM business_days
  CROSS JOIN (VALUES
    ('EUR'),
    ('USD'),
    ('GBP'),
    ('JPY'),
    ('CHF'),
    ('CAD'),
    ('AUD'),
    ('SEK'),
    ('DKK'),
    ('NOK'),
    ('PLN'),
    ('CZK'),
    ('HUF'),
    ('CNY'),
    ('INR'),
    ('BRL'),
    ('MXN')) AS currencies(currency)
  CROSS JOIN (VALUES
    (0),
    (1),
    (2),
    (3),
    (4),
    (5),
    (6),
    (7)) AS carried(days)
  WHERE
    business_days.next_rate_date IS NULL
    OR business_days.rate_date + carried.days < business_days.next_rate_date
)
SELECT
  per_euro.currency::TEXT,
  per_euro.rate_date::DATE,
  @ratio(reporting.units_per_euro, per_euro.units_per_euro, scale := 8) AS exchange_rate
FROM per_euro
INNER JOIN per_euro AS reporting
  ON per_euro.rate_date = reporting.rate_date
WHERE
  reporting.currency = @reporting_currency
  AND NOT per_euro.units_per_euro IS NULL
  AND NOT reporting.units_per_euro IS NULL
  AND @touched(per_euro.rate_date);

@create_index(currency, rate_date, unique := TRUE)
