"""Orphans: files under ``__prompts__`` whose prompt or metric is gone. They are reported, never deleted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_promptopt.prompts.frozen import FOLDER, named_owner
from pytest_promptopt.prompts.registry import registered_prompts
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.snapshots.change import find_orphans

WHOLE_SUITE = "promptopt_whole_suite"


def is_whole_suite(config: pytest.Config) -> bool:
    """Whether no path or node id was typed: only then can a file without an owner be told from one not looked for.

    A worker of pytest-xdist is handed arguments in any case; the process that started it says whether they were typed.
    """
    said = getattr(config, "workerinput", {}).get(WHOLE_SUITE)
    return config.args_source is not type(config.args_source).ARGS if said is None else bool(said)


def find(metrics: Iterable[MetricItem], rootdir: Path) -> list[str]:
    """Orphans beside the metrics' tests and the imported prompts, as paths from ``rootdir``.

    A module that exists and was not imported may own its files, so nothing is said about those.
    """
    owners: dict[Path, set[str]] = {}
    imported: set[Path] = set()
    for metric in metrics:
        owners.setdefault(metric.item.path.parent, set()).add(metric.owner)
        imported.add(metric.item.path)
    for prompt in registered_prompts(rootdir):
        owners.setdefault(prompt.home.file.parent, set()).add(prompt.name)
        imported.add(prompt.home.file)
    return sorted(
        path.relative_to(rootdir).as_posix()
        for folder, names in owners.items()
        for path in find_orphans(folder / FOLDER, names)
        if not _may_have_owner(folder, path, imported)
    )


def _may_have_owner(folder: Path, path: Path, imported: set[Path]) -> bool:
    """Whether a module that was not imported may own ``path``: by its own name, or as an adopted text that it names."""
    owner = named_owner(path.read_text(encoding="utf-8", errors="replace")) or path.name.partition("@")[0]
    module = folder / f"{path.name.partition('.')[0]}.py"
    modules = {each for each in folder.glob("*.py") if each not in imported}
    return module in modules or any(owner in each.read_text(encoding="utf-8", errors="replace") for each in modules)
