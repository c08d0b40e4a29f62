AUDIT (
  name currency_has_rate
);

/* Claim: every order that counts has an exchange rate; a missing one is never a silent 1.0. A returned row has a currency,
or a day, that seeds/exchange_rates.csv does not cover: refresh the seed (make reference-data) or add the currency to it (seeds/README.md), and deploy;
or correct the order at its source. */
SELECT
  order_id,
  currency,
  order_date
FROM @this_model AS this
WHERE
  this.is_counted AND this.@rate IS NULL AND @replaced(this)
