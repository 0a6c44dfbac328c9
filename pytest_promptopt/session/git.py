"""What git knows about a file, where git is and the file is known to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

PATIENCE_SECONDS = 5.0


def committed_text(path: Path, revision: str = "HEAD") -> str | None:
    """The text of ``path`` at ``revision``; ``None`` when git cannot tell."""
    folder = next(parent for parent in path.parents if parent.is_dir())  # its own folder may be gone with it
    try:
        shown = subprocess.run(
            ["git", "show", f"{revision}:./{path.relative_to(folder).as_posix()}"],
            cwd=folder,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return shown.stdout.decode("utf-8") if shown.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def merge_base(revision: str, folder: Path) -> str | None:
    """The commit at which the checkout around ``folder`` left ``revision``; ``None`` when git cannot tell."""
    try:
        found = subprocess.run(
            ["git", "merge-base", "--end-of-options", revision, "HEAD"],
            cwd=folder,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return found.stdout.decode("ascii").strip() if found.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
