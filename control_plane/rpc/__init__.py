"""gRPC for sidecars: purser.sync.v1."""
