"""Files and folders that appear under their names when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bitinfer.errors import InputError

#: What `write_file` has not finished is called so: a kill leaves it.
UNFINISHED = ".bitinfer-*.tmp"

# What systems say that cannot put a folder on the disk, or do not let this user.
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_SYNC |= {errno.EACCES, errno.EPERM}
# And what those say that have no locks.
_NO_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The path of a file that can be made: to be asked before the work, not after it."""
    name = os.fsdecode(path)
    target = Path(name)
    if not target.name or "\0" in name:
        raise InputError(f"path: found {name!r}, expected the name of a file")
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "found a folder, expected a file", name)
    if target.exists() and not target.is_file():
        raise InputError(f"path: found {name!r}, a pipe or device, expected the name of a file")
    for folder in (target.parent, Path(os.path.realpath(target)).parent):
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder))
    return target


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_file(path: Path, data: bytes | bytearray | memoryview, *, overwrite: bool) -> None:
    """Write beside the target, flush to the disk, then take the name in one step.

    A file that is replaced keeps its permissions, and links to it remain links.
    """
    if overwrite:
        path = Path(os.path.realpath(path))
    temporary = _temporary(path)
    try:
        replaced = overwrite and path.exists()
        # Of what is replaced, nobody reads more than before at any time.
        create = partial(os.open, mode=0o600 if replaced else 0o666)
        with open(temporary, "xb", opener=create) as file:
            if replaced:
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _take_free_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill with files; it takes the name when all of it is on the disk.

    A folder of that name that holds something is an `OSError`.
    """
    import shutil  # who only reads models does not wait for it

    temporary = _temporary(path.absolute())
    try:
        temporary.mkdir()
        yield temporary
        for each in (*temporary.iterdir(), temporary):
            _sync(each)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(temporary.parent)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder to oneself among all who ask for it so, on one machine; made if it is not there.

    At the end it is removed if it is empty.  The lock ends with the process that has it and those
    forked from it.  A file system without locks gives none, and an empty folder stays there: it may
    be another one's.
    """
    with contextlib.ExitStack() as stack:
        while True:
            if folder.is_symlink() or folder.is_file():
                raise InputError(f"{folder}: found a file or a link, expected a folder")
            folder.mkdir(exist_ok=True)
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # removed in between by who had it
            stack.callback(os.close, descriptor)
            locked = _lock(descriptor, folder)
            if _is_open_as(descriptor, folder):
                break
        if locked:
            stack.callback(_remove_if_empty, descriptor, folder)
        yield


def _lock(descriptor: int, folder: Path) -> bool:
    """Whether the file system has locks, and this one is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = f"{folder}: found in use by another run"
        raise InputError(f"{found}, expected none (wait, or choose another name)") from None
    except OSError as error:
        if error.errno in _NO_LOCK:
            return False
        error.filename = str(folder)
        raise
    return True


def _remove_if_empty(descriptor: int, folder: Path) -> None:
    # If it has the name no more, it was removed, and the name may be another one's by now.
    if _is_open_as(descriptor, folder):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _is_open_as(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _temporary(path: Path) -> Path:
    return path.with_name(UNFINISHED.replace("*", os.urandom(8).hex()))


def _take_free_name(temporary: Path, path: Path) -> None:
    """Take the name only if it is free: of two writers, one gets it."""
    with contextlib.suppress(OSError):  # the name is taken, or the file system has no hard links
        os.link(temporary, path)
        return
    try:
        # An empty file keeps the name until the full one takes it: what a kill just then leaves.
        path.touch(exist_ok=False)
    except FileExistsError:
        raise _exists(path) from None
    try:
        os.replace(temporary, path)
    except BaseException:
        if temporary.exists():
            path.unlink()
        raise


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists; pass overwrite=True to replace it")


def _sync(path: Path) -> None:
    """Put a file on the disk, or the names in a folder where the system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
