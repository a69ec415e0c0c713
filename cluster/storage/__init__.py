"""Objects by key, in a directory or in an object store; artifacts and snapshots both lie here. Needs no torch."""
