"""The artifact store: results and media."""
