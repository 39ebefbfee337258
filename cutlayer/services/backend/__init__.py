"""The backend: runs, rounds, clients, tasks, events.  Its state is in the database, and nowhere else."""
