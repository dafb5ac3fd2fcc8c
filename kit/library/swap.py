"""Installing: stage, check, then swap, so that ``current`` always leads to a complete package.

::

    to/
      current -> <package>-<digest12>     a symlink, replaced by rename
      <package>-<digest12>/               the package's files, manifest.json, install.json (the receipt)
      .staging/<digest>/                  a package in transfer; a later pull of the same one resumes from here
      .lock                               one pull at a time

The install before the current one is kept, older ones are removed. Whatever fails before the rename leaves the running
install untouched.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kit import store, trust
from kit.errors import KitError, UsageError
from kit.library import oci
from kit.records import InstallReceipt, Manifest

_INSTALLED = re.compile(r".+-[0-9a-f]{12}")


@contextmanager
def slot(to: Path) -> Iterator[None]:
    """Hold the lock of ``to`` (created when missing) while installing into it. Raises StorageError, UsageError."""
    with store.locked(to, f"Another kit is writing in {to}: wait until it has ended."):
        if (to / "current").exists() and not (to / "current").is_symlink():
            raise UsageError(f"{to / 'current'} was not made by kit pull: choose another folder.")
        yield


def current(to: Path) -> Path | None:
    """The folder of the install that ``to/current`` leads to; None before the first one."""
    try:
        folder = to / (to / "current").readlink()
    except OSError:
        return None
    return folder if folder.is_dir() else None


def read_install(folder: Path) -> tuple[InstallReceipt, Manifest]:
    """Receipt and manifest of an installed package. Raises UsageError (none there), BadRecord (broken)."""
    receipt = store.read_record(folder / trust.RECEIPT_FILE, InstallReceipt)
    return receipt, store.read_record(folder / oci.MANIFEST_FILE, Manifest)


def folder_of(to: Path, name: str, digest: str) -> Path:
    """The folder of one installed package."""
    return to / f"{oci.check_name(name)}-{oci.digest_hex(digest)[:12]}"


def find(to: Path, name: str, digest: str) -> Path | None:
    """The install of that very package when every one of its files still has the promised hash, else None."""
    folder = folder_of(to, name, digest)
    try:
        receipt, manifest = read_install(folder)
        intact = receipt.manifest_digest == digest and all(
            store.file_matches(folder / f.file, f) for f in manifest.files
        )
    except KitError:
        return None
    return folder if intact else None


def stage(to: Path, digest: str) -> Path:
    """The folder that the package of ``digest`` is downloaded into; what other packages left in staging is removed."""
    staged = to / trust.STAGING / oci.digest_hex(digest)
    store.make_folder(staged)
    for other in staged.parent.iterdir():
        if other != staged:
            discard(other)
    return staged


def discard(path: Path) -> None:
    """Remove a folder or file of ours, whatever state it is in."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def keep_only(staged: Path, manifest: Manifest) -> None:
    """Remove from ``staged`` what the manifest does not name: nothing else is ever installed."""
    names = {f.file for f in manifest.files}
    folders = {folder.as_posix() for name in names for folder in PurePosixPath(name).parents}
    for path in list(staged.rglob("*")):
        name = path.relative_to(staged).as_posix()
        if name not in names and (name not in folders or path.is_symlink() or not path.is_dir()):
            discard(path)


def install(to: Path, staged: Path, receipt: InstallReceipt, manifest: Manifest) -> Path:
    """Turn a staged and checked package into an install, which :func:`point` makes the current one. Returns its folder.

    The receipt is written last of all files, so a folder with a receipt is complete. Raises StorageError.
    """
    target = folder_of(to, manifest.name, receipt.manifest_digest)
    store.write_record(staged / oci.MANIFEST_FILE, manifest)
    store.write_record(staged / trust.RECEIPT_FILE, receipt)
    with store.explained(target, "install"):
        if target.is_dir():  # a damaged install of the same package is repaired file by file: readers never miss one
            for name in (*(f.file for f in manifest.files), oci.MANIFEST_FILE, trust.RECEIPT_FILE):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).replace(target / name)
        else:
            staged.replace(target)
    return target


def point(to: Path, target: Path) -> None:
    """Make ``target`` the current install in one step; keep the one before it and remove older ones."""
    previous = current(to)
    if previous != target:
        link = to / ".current.tmp"
        with store.explained(to / "current", "write"):
            link.unlink(missing_ok=True)
            link.symlink_to(target.name, target_is_directory=True)
            link.replace(to / "current")
        _remove_older(to, {target, previous})
    discard(to / trust.STAGING)


def _remove_older(to: Path, retained: set[Path | None]) -> None:
    """Installs are moved into staging first: a kill in the middle leaves no half-removed install behind."""
    for path in to.iterdir():
        ours = _INSTALLED.fullmatch(path.name) and (path / trust.RECEIPT_FILE).is_file() and not path.is_symlink()
        if ours and path not in retained:
            with store.explained(path, "remove"):
                path.replace(store.make_folder(to / trust.STAGING) / path.name)
