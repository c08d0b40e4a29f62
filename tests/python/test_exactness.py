"""After any sequence of changes, runs, deaths and deployments every mart equals its definition, and every table a rebuild.

Hypothesis draws the sequences: 200 actions and 40 runs in `make test`; `make soak` goes on for as long as it is told to.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlglot import exp
from sqlmesh.core.model import SqlModel
from sqlmesh.core.model.common import ParsableSql

from scripts import pipeline
from scripts.contract import TABLES
from scripts.errors import WarehouseError
from scripts.settings import connect
from tests.python.test_end_to_end import Row, Warehouse, at

pytestmark = pytest.mark.slow

SOAK = int(os.environ.get("SOAK", "0"))  # sequences of `make soak`
LEAST = {"actions": 200, "runs": 40, "deaths": 3, "deployments": 2}
# Sequences of a seed, of which the first is Hypothesis's simplest; and seeds, if those of one do not reach LEAST.
SEQUENCES, SEEDS = 6, 4
ACTIONS_A_RUN = 6  # at most, between two runs

DAYS = st.integers(0, 120).map(lambda quarters: quarters * 0.75)  # at all hours, over three months
ORDERS, LINES, CUSTOMERS, PRODUCTS, REFUNDS, TICKETS = (
    st.integers(0, most).map(lambda n, letter=letter: f"{letter}{n}")  # type: ignore[misc]
    for letter, most in (("O", 9), ("", 2), ("C", 5), ("P", 4), ("R", 7), ("T", 5))
)
MONEY = st.integers(0, 90_000).map(lambda n: f"{n / 700:.4f}")


class Shop(RuleBasedStateMachine):
    """The source, its files, and the runs. Few keys, so that changes meet."""

    warehouse: ClassVar[Warehouse]
    scratch: ClassVar[Path]
    done: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        """Everything empty, whatever the sequence before left."""
        self.clock = 100.0
        self.records: dict[tuple[str, str], Row] = {}  # the newest version that the source has sent
        self.files: dict[str, list[Row]] = {}  # what the next load brings
        self.sent: list[dict[str, list[Row]]] = []
        self.unseen = 0  # actions since the last run
        empty(self.warehouse)
        self.warehouse.drops = self.scratch / f"sequence_{self.done['sequences']}"
        self.done["sequences"] += 1

    # What happens at the source -----------------------------------------------------------------------------------

    def send(self, table: str, key: str, age: float = 0, **values: Any) -> None:
        """A version of a record into the next load; `age` days older than now."""
        self.clock += 0.01
        row = {**self.records.get((table, key), {}), **values}
        if table != "ticket_events":
            row["updated_at"] = at(self.clock - age)
        if not age:
            self.records[table, key] = row
        self.files.setdefault(table, []).append(row)
        self.count()

    def count(self) -> None:
        self.done["actions"] += 1
        self.unseen += 1

    def known(self, table: str) -> list[str]:
        return [key for name, key in self.records if name == table]

    @rule(order=ORDERS, customer=st.none() | CUSTOMERS, day=DAYS, currency=st.sampled_from(["USD", "EUR", "JPY"]),
          lines=st.lists(st.tuples(PRODUCTS, st.integers(1, 5), MONEY), max_size=3))  # fmt: skip
    def an_order(self, order: str, customer: str | None, day: float, currency: str, lines: list[Any]) -> None:
        """New, or all of it anew: another day, customer or currency. Lines may come without it, and it without lines."""
        self.send(
            "orders", order, order_id=order, customer_id=customer, status="placed", currency=currency,
            shipping_amount="4.99", ordered_at=at(day), _deleted=False,
        )  # fmt: skip
        for number, (product, quantity, gross) in enumerate(lines, 1):
            self.a_line(order, str(number), product, quantity, gross)

    @rule(order=ORDERS, number=LINES, product=PRODUCTS, quantity=st.integers(1, 5), gross=MONEY)
    def a_line(self, order: str, number: str, product: str, quantity: int, gross: str) -> None:
        """New or corrected; its order may never have been heard of."""
        self.send(
            "order_items", f"{order}/{number}", order_id=order, line_number=int(number) + 1, product_id=product,
            quantity=quantity, gross_amount=gross, discount_amount=f"{float(gross) / 3:.4f}", tax_amount="0.07",
            _deleted=False,
        )  # fmt: skip

    @rule(data=st.data(), status=st.sampled_from(["shipped", "delivered", "cancelled", "placed"]))
    @precondition(lambda self: self.known("orders"))
    def a_status(self, data: st.DataObject, status: str) -> None:
        self.send("orders", data.draw(st.sampled_from(self.known("orders"))), status=status)

    @rule(data=st.data(), day=DAYS)
    @precondition(lambda self: self.known("orders"))
    def a_move_to_another_day(self, data: st.DataObject, day: float) -> None:
        self.send("orders", data.draw(st.sampled_from(self.known("orders"))), ordered_at=at(day))

    @rule(data=st.data(), customer=st.none() | CUSTOMERS)
    @precondition(lambda self: self.known("orders"))
    def a_move_to_another_customer(self, data: st.DataObject, customer: str | None) -> None:
        self.send("orders", data.draw(st.sampled_from(self.known("orders"))), customer_id=customer)

    @rule(refund=REFUNDS, order=st.none() | ORDERS, number=st.none() | LINES, customer=st.none() | CUSTOMERS,
          product=st.none() | PRODUCTS, amount=MONEY, day=DAYS)  # fmt: skip
    def a_refund(
        self, refund: str, order: str | None, number: str | None, customer: str | None, product: str | None, amount: str,
        day: float,
    ) -> None:  # fmt: skip
        self.send(
            "refunds", refund, refund_id=refund, order_id=order, line_number=number and int(number) + 1,
            customer_id=customer, product_id=product, quantity=1, amount=amount, refunded_at=at(day), _deleted=False,
        )  # fmt: skip

    @rule(ticket=TICKETS, customer=st.none() | CUSTOMERS, day=DAYS,
          priority=st.sampled_from(["urgent", " High ", "low", "all", "P1", ""]))  # fmt: skip
    def a_ticket(self, ticket: str, customer: str | None, day: float, priority: str) -> None:
        self.send(
            "tickets", ticket, ticket_id=ticket, customer_id=customer, priority=priority, status="open",
            created_at=at(day), _deleted=False,
        )  # fmt: skip

    @rule(ticket=TICKETS, events=st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from(["agent_reply", "solved", "reopened", "closed", "pending"]), DAYS),
        min_size=1, max_size=4))  # fmt: skip
    def ticket_events(self, ticket: str, events: list[tuple[int, str, float]]) -> None:
        for number, kind, day in events:
            self.send(
                "ticket_events", f"E{number}", event_id=f"E{number}", ticket_id=ticket, event_type=kind,
                occurred_at=at(day), _deleted=False,
            )  # fmt: skip

    @rule(customer=CUSTOMERS, country=st.sampled_from(["US", "NA", ""]))
    def a_customer(self, customer: str, country: str) -> None:
        self.send(
            "customers", customer, customer_id=customer, email=f"{customer}@{country}.Example.com", full_name=customer,
            country_code=country, created_at=at(1), _deleted=False,
        )  # fmt: skip

    @rule(product=PRODUCTS, price=MONEY, name=st.sampled_from(["tea", 'te\\N\n"a"']))
    def a_product(self, product: str, price: str, name: str) -> None:
        self.send("products", product, product_id=product, product_name=name, list_price=price, _deleted=False)

    @rule(data=st.data())
    @precondition(lambda self: self.records)
    def a_deletion(self, data: st.DataObject) -> None:
        table, key = data.draw(st.sampled_from(sorted(self.records)))
        self.send(table, key, _deleted=True)

    @rule(data=st.data(), age=st.sampled_from([0.05, 3, 90]))
    @precondition(lambda self: self.records)
    def a_late_version(self, data: st.DataObject, age: float) -> None:
        """An older version arrives after a newer one: it belongs to history, and changes nothing else."""
        table, key = data.draw(
            st.sampled_from(sorted(k for k in self.records if k[0] != "ticket_events") or [("", "")])
        )
        if table == "customers":
            self.send(table, key, age, country_code="DE")
        elif table == "orders":
            self.send(table, key, age, ordered_at=at(33), customer_id="C0", currency="JPY")
        elif table == "products":
            self.send(table, key, age, list_price="7")

    @rule(data=st.data())
    @precondition(lambda self: self.files)
    def a_duplicate(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(sorted(self.files)))
        self.files[table].append(dict(data.draw(st.sampled_from(self.files[table]))))
        self.count()

    @rule(data=st.data())
    @precondition(lambda self: self.sent)
    def files_sent_again(self, data: st.DataObject) -> None:
        self.warehouse.drop(**data.draw(st.sampled_from(self.sent)))
        self.count()

    # What happens here --------------------------------------------------------------------------------------------

    def load(self) -> None:
        if self.files:
            self.warehouse.drop(**self.files)
            self.sent.append(self.files)
            self.files = {}
        if self.warehouse.drops.exists():
            pipeline.load(self.warehouse.drops)

    @rule()
    @precondition(lambda self: self.files)
    def a_load_without_a_run(self) -> None:
        self.load()
        self.count()

    @invariant()
    def runs_are_not_rare(self) -> None:
        """Nor deaths: every sixth of these dies, each time after other models."""
        if self.unseen >= ACTIONS_A_RUN:
            self.done["due"] += 1
            self.load()
            if not self.done["due"] % 6:
                die_after(self.done["due"] * 7 % 40, is_recorded=bool(self.done["due"] % 12))
                self.done["deaths"] += 1
            pipeline.run_missing()
            self.compare()

    @rule()
    @precondition(lambda self: self.files)
    def a_run(self) -> None:
        self.load()
        pipeline.run_missing()
        self.compare()

    @rule(models=st.integers(0, 40), is_recorded=st.booleans())
    @precondition(lambda self: self.files)
    def a_run_that_dies(self, models: int, is_recorded: bool) -> None:
        """After so many models, before or after the last one's work is recorded; the next run finds what it left."""
        self.load()
        die_after(models, is_recorded)
        self.done["deaths"] += 1
        pipeline.run_missing()
        self.compare()

    @rule(name=st.sampled_from(["staging.orders", "marts.fct_orders", "marts.support_daily", "marts.customer_metrics"]))
    @precondition(lambda self: self.files and self.done["deployments"] < (SOAK or 2))
    def a_changed_model(self, name: str) -> None:
        """A plan builds it and what depends on it anew, on top of what was loaded meanwhile."""
        self.load()
        self.done["deployments"] += 1
        change(name, self.done["deployments"])
        self.compare()

    def compare(self) -> None:
        self.done["runs"] += 1
        self.unseen = 0
        assert self.warehouse.differences(self.scratch) == {}

    def teardown(self) -> None:
        if hasattr(self, "files"):
            self.load()
            pipeline.run_missing()
            self.compare()


def empty(warehouse: Warehouse) -> None:
    """No rows anywhere; definitions, indexes and SQLMesh's state stay."""
    with closing(connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables"
            " WHERE schemaname IN ('landing', 'analytics_staging', 'analytics_marts', 'analytics_marts_pii', 'analytics_ml')"
            " AND tablename NOT LIKE 'exchange_rates%'"  # it hangs on no record
        )
        (tables,) = cursor.fetchone() or ("",)
        cursor.execute(f"TRUNCATE {tables}")
        admin.commit()


def die_after(models: int, is_recorded: bool) -> None:
    """Run, and let every model from the given one on fail, as if the process had died there."""
    context, left = pipeline.context(), [models]
    evaluator = context.snapshot_evaluator
    evaluate = evaluator.evaluate

    def dying(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 and (is_recorded or left[0] < -1):
            raise RuntimeError("died")
        result = evaluate(*args, **kwargs)
        if left[0] == -1:
            raise RuntimeError("died after the commit")
        return result

    evaluator.evaluate = dying  # type: ignore[method-assign]
    try:
        pipeline.run_missing()
    except WarehouseError:
        pass
    finally:
        evaluator.evaluate = evaluate  # type: ignore[method-assign]
    context.engine_adapter.close()  # and with its sessions go its locks


def change(name: str, number: int) -> None:
    """Deploy a model with another query of the same meaning."""
    context = pipeline.context()
    model = context.get_model(name, raise_if_missing=True)
    assert isinstance(model, SqlModel)
    query = model.query.copy()
    assert isinstance(query, exp.Select)
    changed = ParsableSql.from_parsed_expression(query.where(f"{number} > 0"), model.dialect)
    context.upsert_model(model, query_=changed)
    pipeline.apply("the changed model was not deployed")


@pytest.fixture(scope="module")
def warehouse(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with Warehouse(homes / "exactness", tmp_path_factory.mktemp("exactness")).built() as made:
        yield made


def play(sequences: int, steps: int) -> None:
    """Let Hypothesis draw so many sequences of so many actions."""
    run_state_machine_as_test(
        Shop,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_table_is_right_after_anything(warehouse: Warehouse, tmp_path: Path) -> None:
    Shop.warehouse, Shop.scratch = warehouse, tmp_path
    if SOAK:
        play(SOAK, steps=60)
    for number in range(SEEDS):
        if all(Shop.done[what] >= least for what, least in LEAST.items()):
            break
        seed(number)(Shop)
        play(SEQUENCES, steps=40)
    print(dict(Shop.done))
    assert {what: Shop.done[what] for what, least in LEAST.items() if Shop.done[what] < least} == {}
    assert set(TABLES) <= {name.split(".")[1] for name in warehouse.content()}
