"""The dashboard: one page, and the endpoints that it reads."""
