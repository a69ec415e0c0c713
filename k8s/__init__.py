"""What runs Zoetrope on Kubernetes: manifests, the schemas that they are checked against, rules, dashboards, image."""
