"""The product catalog: read from YAML, published as numbered revisions, never changed afterwards."""
