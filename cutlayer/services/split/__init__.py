"""The split server as a service: stateless replicas that answer clients' requests and do the backend's tasks."""
