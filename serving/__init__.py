"""The service: API, jobs, routing. Knows no tensors but opaque references."""
