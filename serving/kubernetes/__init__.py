"""Renders and checks what `zoetrope.k8s` holds: manifests for Kubernetes. Nothing here talks to a cluster."""
