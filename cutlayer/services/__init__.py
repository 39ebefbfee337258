"""The roles as services: backend, split server, federated server and client agent."""
