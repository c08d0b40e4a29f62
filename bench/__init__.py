"""The benchmark: what the warehouse costs beside a bare COPY, SQL by hand, and dbt. See README.md here."""
