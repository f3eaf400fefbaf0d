"""Which batches living processes are at work on, so that two of them need not do the same."""

import errno
import os
from pathlib import Path

from ..errors import UserError

try:
    import fcntl
except ImportError:            # Windows: nobody knows of the others, and work may be done twice
    fcntl = None


class Claims:
    """A lock for each number, on a byte of one file. The system lets go of those of a process that ends or
    dies.

    Where the disk has no locks every claim succeeds: nothing goes wrong then, but work may be done twice.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as why:
            raise UserError(f"cannot write to {path.parent} ({why.strerror}).") from why

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)

    def take(self, number: int) -> bool:
        """Whether no other process has the number; it is this one's now."""
        try:
            if fcntl:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as why:
            return why.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def leave(self, number: int) -> None:
        """Let another process have the number."""
        if fcntl:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, number)

    def free(self, number: int) -> bool:
        """Whether no other process has the number now."""
        free = self.take(number)
        if free:
            self.leave(number)
        return free
