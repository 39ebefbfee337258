"""Every error that cutlayer raises on purpose.

    CutlayerError                1   something else went wrong, and the message says what
    ├── ConfigError              2   an experiment key, value, file or command-line argument is wrong
    ├── CutError                 3   the model cannot be cut there
    ├── DataError                4   data is missing, malformed, or does not fit the model
    ├── RunFolderError           5   a run folder exists already, is missing, or belongs to another experiment
    ├── TrainingError            6   the loss or a weight stopped being finite, or training cannot go on
    ├── WireError                7   a message cannot be decoded, or breaks the protocol
    ├── StoreError               8   the object store failed
    │   ├── MissingObject            an object that must be there is not
    │   ├── DamagedObject            an object is torn, truncated, or not cutlayer's
    │   ├── ObjectExists             a conditional put lost against an earlier one
    │   └── NoSpace                  the disk or the quota is full
    ├── MissingExtra             9   an optional dependency is not installed
    └── ServiceError            10   a service refused a request, or cannot be reached

The number is the exit code of the command line (130 after Ctrl-C).  A message is one sentence that says what was
expected, what came, and what to do.
"""


class CutlayerError(Exception):
    """Base of all errors that cutlayer raises on purpose."""

    exit_code = 1


class ConfigError(CutlayerError):
    """An experiment key, value, file or command-line argument is wrong."""

    exit_code = 2


class CutError(CutlayerError):
    """The model cannot be cut at the requested place."""

    exit_code = 3


class DataError(CutlayerError):
    """Data is missing, malformed, or does not fit the model."""

    exit_code = 4


class RunFolderError(CutlayerError):
    """A run folder exists already, is missing, or belongs to another experiment."""

    exit_code = 5


class TrainingError(CutlayerError):
    """Training cannot go on: the loss, a gradient or a weight is not finite."""

    exit_code = 6


class WireError(CutlayerError):
    """A message cannot be decoded, or does not follow the protocol."""

    exit_code = 7


class StoreError(CutlayerError):
    """The object store failed."""

    exit_code = 8


class MissingObject(StoreError):
    """An object that must be in the store is not there."""


class DamagedObject(StoreError):
    """An object in the store is torn, truncated, or was not written by cutlayer."""


class ObjectExists(StoreError):
    """A conditional put found that the object already exists."""


class NoSpace(StoreError):
    """The disk or the quota is full."""


class MissingExtra(CutlayerError):
    """An optional dependency is not installed."""

    exit_code = 9


class ServiceError(CutlayerError):
    """A service refused a request, or cannot be reached."""

    exit_code = 10
