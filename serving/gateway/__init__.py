"""The service's APIs, gRPC and HTTP. Touches the job store and the artifact store, nothing else."""
