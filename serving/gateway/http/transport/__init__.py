"""Bound HTTP connections and the bodies that come over them."""
