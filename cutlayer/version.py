"""The version of cutlayer, said here alone."""

__version__ = "0.1.0"
