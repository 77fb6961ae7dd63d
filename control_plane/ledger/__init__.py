"""The ledger: balances, grant occurrences, postings, facts and limits. See README.md."""
