"""The federated server as a service: takes client parts, averages them as a stream, hands them out again."""
