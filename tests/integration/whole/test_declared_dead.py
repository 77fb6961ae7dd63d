"""An operator takes a sidecar for dead that lives: nothing is oversold, and nothing that it acknowledged is lost."""

from tests.e2e.fleet import eventually
from tests.integration.whole.installation import Aboard, Installation

CATALOG = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 0}
rate_cards:
  chat: {event: chat, unit: credit, prices: [{dimension: tokens, per: 1, price: "1"}]}
features:
  chat: {type: metered, event: chat, rate_card: chat}
plans:
  prepaid:
    entitlements: {chat: {spends: credit}}
    grants: [{unit: credit, amount: "100"}]
"""


def spend(aboard: Aboard) -> int:
    """Consumes one credit after the other until it is refused: how many that were."""
    spent = 0
    while aboard.client.consume(customer_id="acme", event_name="chat", measures={"tokens": 1}):
        spent += 1
    return spent


def test_a_living_dead(installation: Installation) -> None:
    """Two sidecars spend all that they get; decided usage is what is in the books, within what was granted."""
    office = installation.office
    office.publish(CATALOG)
    office.customer("acme", "prepaid")
    dead, other = installation.sidecar(), installation.sidecar()
    assert dead.client.consume(customer_id="acme", event_name="chat", measures={"tokens": 40})
    (session,) = [one for one in office.get("/sidecars")["items"] if one["label"] == "sidecar-1"]
    assert session["connected"]
    said = office.post(f"/sidecars/{session['outbox_id']}/{session['incarnation_id']}/declare-dead")
    assert said["state"] == "superseded"

    spent = 40 + spend(dead) + spend(other)
    assert spent <= 100
    dead.client.report(customer_id="acme", event_name="chat", measures={"tokens": 1})
    for aboard in (dead, other):
        aboard.has_uploaded()
    eventually(lambda: len(office.events("acme")) == spent - 40 + 2, seconds=5, what="everything is booked")
    balance = office.balance("acme", "wallet:credit")
    assert balance["spent"] + balance["overage"] == spent + 1
    assert balance["overage"] <= 1, "nothing but the fact"
