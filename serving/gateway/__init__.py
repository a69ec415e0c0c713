"""The faces of the service: gRPC and HTTP. Touches the job store and the artifact store, nothing else."""
