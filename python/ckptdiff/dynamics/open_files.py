"""Every shard of a series is open while it is read, which is more than a shell allows at first."""

from __future__ import annotations

__all__ = ["allow_open_files"]

# Those of the process itself: its libraries, its terminal, what a notebook has open.
_OTHERS = 128


def allow_open_files(count: int) -> None:
    """Let this process have ``count`` more files open: its soft limit is raised where it is less.

    Raises ValueError, with the limit, where the hard limit does not allow it. Does nothing where
    the system has no such limits.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"the checkpoints of the series have {count:,} files, which are open at once, and this "
            f"process may open {hard:,} (ulimit -Hn); read fewer checkpoints at a time"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
