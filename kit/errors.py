"""Every error that kit raises on purpose. The library raises; only the command line prints and exits.

::

    KitError                    exit 1
    ├── UsageError              exit 2   the caller's words or files are not what the verb takes
    │   ├── UnknownName                  a name that is not in a list, with "did you mean"
    │   ├── BadModel                     a file that is no usable model
    │   └── BadRecord                    a file of another schema, empty, mixed or broken
    ├── BackendUnavailable      exit 1   a runtime is missing here; the message holds the command that brings it
    ├── StorageError            exit 1   read-only, full or vanished storage
    ├── LinkError               exit 1   a library server that cannot be reached, or a port in use
    ├── IntegrityError          exit 1   bytes that are not what their hash, size or place promised
    │   └── UntrustedPackage             something from a library that could run code here
    ├── MeasurementError        exit 1   nothing could be measured
    ├── BrokenPromise           exit 1   what was pulled misses its deadline here: the install before it stays
    └── NoAnswer                exit 3   the question is sound and no variant meets it

Every message is one sentence (or two): what is wrong, then what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """The first line of an error that is not kit's, for a sentence of kit's: its class where it has no text.

    >>> first_line(ValueError("no such axis")), first_line(KeyError())
    ('no such axis', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class KitError(Exception):
    """Root of the tree; ``exit_code`` is what the command line leaves with, ``details`` what --json prints beside the sentence."""

    exit_code = 1

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class UsageError(KitError):
    """The words or options given are not what the verb takes."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not among the known ones.

    >>> str(UnknownName("root", "resnet81", ["resnet18", "vgg11"]))
    "Unknown root 'resnet81': did you mean 'resnet18'? Known: resnet18, vgg11."
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = list(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f": did you mean '{near[0]}'?" if near else "."
        listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
        super().__init__(
            f"Unknown {what} '{name}'{hint} Known: {listed}.", nearest=near[0] if near else None, known=names
        )


class BadModel(UsageError):
    """A file is no model, or not the one that it is said to be."""


class BadRecord(UsageError):
    """A record is broken, of another kind, or not enough for what is asked."""


class BackendUnavailable(KitError):
    """A runtime or a package that is needed is not installed or finds no hardware."""


class StorageError(KitError):
    """A file or a folder cannot be read or written."""


class LinkError(KitError):
    """The library cannot be reached, or the link broke."""


class IntegrityError(KitError):
    """Bytes are not what their hash or their record says."""


class UntrustedPackage(IntegrityError):
    """A package holds what must not be loaded from a link."""


class MeasurementError(KitError):
    """A measurement failed: the worker crashed, ran out of memory or of time."""


class BrokenPromise(KitError):
    """An installed package is slower than its advertised latency allows."""


class NoAnswer(KitError):
    """No variant meets the requirement."""

    exit_code = 3
