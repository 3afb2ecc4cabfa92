"""Files and folders that appear under their names when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bitinfer.errors import InputError

#: Names of what `write_file` has not finished: a kill leaves it.
TEMPORARY = re.compile(r"\.bitinfer-[0-9a-f]+\.tmp")

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

# What systems answer that cannot put a folder on the disk, or do not let this user.
_NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_SYNC |= {errno.EACCES, errno.EPERM}
# And what those answer that have no locks.
_NO_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The path of a file that can be made: to be asked before the work, not after it.

    Raises:
        InputError: ``path`` does not name a file, or names a pipe or device.
        FileExistsError: It exists, if only as a dangling link, and ``overwrite`` is false.
        IsADirectoryError: It is a folder.
        FileNotFoundError: The folder it should be in does not exist.
    """
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

    Raises:
        FileExistsError: The file exists and ``overwrite`` is false.
    """
    if overwrite:
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".bitinfer-{os.urandom(8).hex()}.tmp")
    try:
        replaced = overwrite and path.exists()
        # Of what is replaced, nobody reads more than before at any time.
        descriptor = os.open(temporary, _NEW, 0o600 if replaced else 0o666)
        with open(descriptor, "wb") as file:
            if replaced:
                os.chmod(descriptor, path.stat().st_mode & 0o777)
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
    import shutil  # who only reads models does not wait for these
    import tempfile

    parent = path.absolute().parent
    temporary = Path(tempfile.mkdtemp(prefix=".bitinfer-", dir=parent))
    try:
        folder = temporary / "new"
        folder.mkdir()  # with the permissions of any new folder; that of mkdtemp is private
        yield folder
        for each in (*folder.iterdir(), folder):
            _sync(each)
        folder.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(parent)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder to oneself among all who ask for it so, on one machine; made if it is not there.

    At the end it is removed if it is empty.  The lock ends with the process that has it and those
    forked from it.  A file system without locks gives none, and an empty folder stays there: it may
    be another one's.

    Raises:
        InputError: Another one has it, or what has that name is no folder.
    """
    descriptor, locked = _open_locked(folder)
    try:
        yield
    finally:
        # If it has the name no more, it was removed, and the name may be another one's by now.
        if locked and _is_open_as(descriptor, folder):
            with contextlib.suppress(OSError):
                folder.rmdir()
        os.close(descriptor)


def _open_locked(folder: Path) -> tuple[int, bool]:
    """A descriptor of the folder that has that name now, and whether it has the lock."""
    while True:
        if not os.path.lexists(folder):
            folder.mkdir(exist_ok=True)
        if folder.is_symlink() or folder.is_file():
            raise InputError(f"{folder}: found a file or a link, expected a folder")
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # removed in between by who had it
            stack.callback(os.close, descriptor)
            locked = _lock(descriptor, folder)
            if _is_open_as(descriptor, folder):
                stack.pop_all()
                return descriptor, locked


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
        raise OSError(error.errno, f"cannot lock: {error.strerror}", str(folder)) from error
    return True


def _is_open_as(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _take_free_name(temporary: Path, path: Path) -> None:
    """Take the name only if it is free: of two writers, one gets it."""
    try:
        os.link(temporary, path)
        return
    except OSError:  # the name is taken, or the file system has no hard links
        pass
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
