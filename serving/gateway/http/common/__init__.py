"""What all HTTP APIs share: routes, bodies, forms and files."""
