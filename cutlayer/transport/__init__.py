"""Transports: how a message gets to a role and its reply back.  One method; everything above it is shared."""

from cutlayer.transport.base import Transport
from cutlayer.transport.in_process import InProcess
from cutlayer.transport.traffic import Traffic

__all__ = ["InProcess", "Traffic", "Transport"]
