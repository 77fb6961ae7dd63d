"""What is sold in the bench."""

PLAN = "bench"
TEN = "ten"
CATALOG = """
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 9}
meters:
  requests: {event: llm_inference, aggregate: count}
  images: {event: image, aggregate: count}
  searches: {event: search, aggregate: count}
rate_cards:
  llm:
    event: llm_inference
    unit: usd
    by: model
    unknown: deny
    prices:
      text-gen-v3:
        - {dimension: input_tokens,  per: 1000, price: "0.003"}
        - {dimension: output_tokens, per: 1000, price: "0.012"}
features:
  chat: {type: metered, event: llm_inference, rate_card: llm}
  images: {type: metered, meter: images}
  searches: {type: metered, meter: searches}
  seats: {type: gauge}
  level: {type: config, value: integer}
  max_context: {type: config, value: integer}
  models: {type: config, value: set}
  sso: {type: switch}
  audit: {type: switch}
  export: {type: switch}
plans:
  bench:
    entitlements:
      chat: {spends: usd, overage: deny, rate: [{meter: requests, limit: 60000000, per: PT1M}]}
    grants: [{unit: usd, amount: "900000", every: P1M}]
  ten:
    entitlements:
      chat: {spends: usd, overage: deny, rate: [{meter: requests, limit: 60000000, per: PT1M}]}
      images: {limit: 100, every: P1M}
      searches: {limit: 10000, every: P1M, overage: {allow_up_to: 500}}
      seats: {limit: 5}
      level: LEVEL
      max_context: 131072
      models: [text-gen-v3]
      sso: true
      audit: true
      export: true
    grants: [{unit: usd, amount: "900000", every: P1M}]
"""


def catalog(level: int = 1) -> str:
    """The catalog's text; `level` is the value of a feature, so that a publish changes something to see."""
    return CATALOG.replace("LEVEL", str(level))
