MODEL (
  name staging.exchange_rates,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = rate_date)
  ),
  owner finance,
  tags (staging, finance),
  grain (currency, rate_date),
  description 'One row per currency and calendar day: what one unit is worth in the reporting currency, at the rate of the last business day. A rate is carried over a gap for seven days, the last one of the file for 45 (docs/decisions/0005-currency.md).',
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
), calendar_days AS (
  /* eights and ones make 0 to 47 */
  SELECT
    business_days.rate_date + eights.days + ones.days AS rate_date,
    business_days.usd,
    business_days.gbp,
    business_days.jpy,
    business_days.chf,
    business_days.cad,
    business_days.aud,
    business_days.sek,
    business_days.dkk,
    business_days.nok,
    business_days.pln,
    business_days.czk,
    business_days.huf,
    business_days.cny,
    business_days.inr,
    business_days.brl,
    business_days.mxn
  FROM business_days
  CROSS JOIN (VALUES
    (0),
    (8),
    (16),
    (24),
    (32),
    (40)) AS eights(days)
  CROSS JOIN (VALUES
    (0),
    (1),
    (2),
    (3),
    (4),
    (5),
    (6),
    (7)) AS ones(days)
  WHERE
    CASE
      WHEN business_days.next_rate_date IS NULL
      THEN eights.days + ones.days <= 45
      ELSE eights.days = 0
      AND business_days.rate_date + ones.days < business_days.next_rate_date
    END
), per_euro AS (
  SELECT
    calendar_days.rate_date,
    currencies.currency,
    CASE currencies.currency
      WHEN 'EUR'
      THEN 1
      WHEN 'USD'
      THEN calendar_days.usd
      WHEN 'GBP'
      THEN calendar_days.gbp
      WHEN 'JPY'
      THEN calendar_days.jpy
      WHEN 'CHF'
      THEN calendar_days.chf
      WHEN 'CAD'
      THEN calendar_days.cad
      WHEN 'AUD'
      THEN calendar_days.aud
      WHEN 'SEK'
      THEN calendar_days.sek
      WHEN 'DKK'
      THEN calendar_days.dkk
      WHEN 'NOK'
      THEN calendar_days.nok
      WHEN 'PLN'
      THEN calendar_days.pln
      WHEN 'CZK'
      THEN calendar_days.czk
      WHEN 'HUF'
      THEN calendar_days.huf
      WHEN 'CNY'
      THEN calendar_days.cny
      WHEN 'INR'
      THEN calendar_days.inr
      WHEN 'BRL'
      THEN calendar_days.brl
      WHEN 'MXN'
      THEN calendar_days.mxn
    END AS units_per_euro
  FROM calendar_days
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
)
SELECT
  per_euro.currency::TEXT,
  per_euro.rate_date::DATE,
  @ratio(reporting.units_per_euro, per_euro.units_per_euro, scale := 12) AS exchange_rate
FROM per_euro
INNER JOIN per_euro AS reporting
  ON per_euro.rate_date = reporting.rate_date
WHERE
  reporting.currency = @reporting_currency
  AND NOT per_euro.units_per_euro IS NULL
  AND NOT reporting.units_per_euro IS NULL
  AND @touched(per_euro.rate_date);

@create_index(currency, rate_date, unique := TRUE)
