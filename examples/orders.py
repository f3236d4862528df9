"""Typed payloads: what does not fit is refused before anything is written.

``place_order.invoke(...)`` checks the payload against ``Order``, so a wrong order fails where it is made,
with the path to the field, and not an hour later in a task. The result comes back as a ``Receipt``.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from conductor import Conductor, Context, Event, Fail

app = Conductor()


@dataclass
class Line:
    article: str
    quantity: int
    price: Decimal


@dataclass
class Order:
    customer: str
    lines: list[Line]


@dataclass
class Receipt:
    customer: str
    total: Decimal
    charged_at: datetime


@app.task
def place_order(event: Event[Order], ctx: Context) -> Receipt:
    order = event.payload
    total = sum((line.quantity * line.price for line in order.lines), Decimal(0))
    if not total:
        raise Fail(f"the order of {order.customer} is empty")  # no retry makes it better
    charged_at = ctx.step("charge card", charge_card, order.customer, total)
    return Receipt(order.customer, total, charged_at)


def charge_card(customer: str, total: Decimal) -> datetime:
    """Stand for a call to a bank. Recorded as a step, it is not made again when the rest is retried."""
    return datetime.now(UTC)
