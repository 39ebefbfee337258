"""The client agent: holds data and client parts, dials out, and does the tasks that the backend has for it."""
