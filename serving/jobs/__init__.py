"""The durable job: states, store, leases and epochs."""
