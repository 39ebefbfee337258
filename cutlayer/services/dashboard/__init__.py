"""The dashboard: a live page that reads only the backend's public API and event stream, and keeps nothing."""
