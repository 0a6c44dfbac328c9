"""What a prompt call needs from the world: which model, which client, and which compiled prompt is in force."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from shlex import quote
from typing import Any
from zipimport import zipimporter

from pytest_promptopt.errors import ModelError, SnapshotError
from pytest_promptopt.lms.client import Client
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.prompts.active import chosen_model, current_evaluation, model_of_strays, provided_runtime
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.frozen import FrozenPrompt, is_stale, read_frozen, snapshot_path
from pytest_promptopt.prompts.signature import Signature
from pytest_promptopt.prompts.toml_file import decode


class PromptOptWarning(UserWarning):
    """Something that a prompt does otherwise than one might expect, such as running its source because it is stale."""


class Standing(StrEnum):
    """Why a compiled prompt is in force."""

    SOURCE = "source"  # nothing was frozen for this model
    FROZEN = "frozen"
    EDITED = "edited"  # frozen, then changed by hand: used, shown, judged
    STALE = "stale"  # frozen for another source or signature: the source runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The compiled prompt in force for one model, and why; ``path`` is the file, which may not exist."""

    standing: Standing
    model: str
    compiled: CompiledPrompt
    path: Path
    frozen: FrozenPrompt | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether the frozen prompt is what runs, edited or not."""
        return self.standing in (Standing.FROZEN, Standing.EDITED)

    @property
    def unconfirmed_reason(self) -> str:
        """Why what is in force was frozen although nothing had proven it better; empty where it was proven."""
        return self.frozen.unconfirmed_reason if self.frozen is not None and self.is_frozen else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptHome:
    """Where a prompt lives, and so where its snapshots do: its name, module and file."""

    name: str
    module: str
    file: Path
    line: int

    def snapshot_path(self, model: str) -> Path:
        """The file that holds the compiled prompt for ``model``."""
        return snapshot_path(self.file, self.name, model)

    def read_snapshot(self, model: str) -> str | None:
        """The text of that file; ``None`` when there is none."""
        return self.read_text(self.snapshot_path(model))

    def read_text(self, path: Path) -> str | None:
        """The text of a file at or below the prompt's folder, also out of a zipped package; ``None`` without one."""
        package = self.module.rpartition(".")[0]
        try:
            if package and not path.parent.is_dir() and path.is_relative_to(self.file.parent):
                place = resources.files(package)
                for part in path.relative_to(self.file.parent).parts:
                    place = place / part
                return decode(place.read_bytes(), path=path)
            return decode(path.read_bytes(), path=path)
        except (FileNotFoundError, NotADirectoryError, ModuleNotFoundError):
            return self._read_archived(path)

    def _read_archived(self, path: Path) -> str | None:
        """The file out of the archive that the module came from: resources know no package without ``__init__.py``."""
        loader = getattr(getattr(sys.modules.get(self.module), "__spec__", None), "loader", None)
        if not isinstance(loader, zipimporter):
            return None
        try:
            return decode(loader.get_data(str(path)), path=path)
        except OSError:
            return None


class Shelf:
    """Frozen prompts, each file read once under a lock."""

    def __init__(self) -> None:
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._snapshots: dict[tuple[Path, str, str, str, str], Snapshot] = {}

    def find(self, home: PromptHome, signature: Signature, source: CompiledPrompt, model: str) -> Snapshot:
        """What is in force for ``model``. Raises ``SnapshotError`` when its file cannot be read."""
        key = (home.file, home.name, model, signature.digest, signature.source_digest)
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            if self._pid != os.getpid():
                self.unlock()
            with self._lock:
                snapshot = self._snapshots.get(key) or self._read(home, signature, source, model)
                self._snapshots[key] = snapshot
        return snapshot

    def unlock(self) -> None:
        """Let go of a lock whose holder a fork left behind; what was read stays."""
        self._lock, self._pid = threading.Lock(), os.getpid()

    def forget(self) -> None:
        """Read every file anew from now on."""
        with self._lock:
            self._snapshots.clear()

    @staticmethod
    def _read(home: PromptHome, signature: Signature, source: CompiledPrompt, model: str) -> Snapshot:
        path = home.snapshot_path(model)
        text = home.read_snapshot(model)
        if text is None:
            return Snapshot(standing=Standing.SOURCE, model=model, compiled=source, path=path)
        frozen = read_frozen(text, path=path, prompt=home.name, model=model)
        if is_stale(frozen, signature_digest=signature.digest, source_digest=signature.source_digest):
            return Snapshot(standing=Standing.STALE, model=model, compiled=source, path=path, frozen=frozen)
        if fault := signature.find_fault(frozen.compiled):
            raise _unusable(home, path, fault)
        standing = Standing.EDITED if frozen.is_edited else Standing.FROZEN
        return Snapshot(standing=standing, model=model, compiled=frozen.compiled, path=path, frozen=frozen)


def _unusable(home: PromptHome, path: Path, fault: str) -> SnapshotError:
    renew = f"pytest --optimize-prompts --prompt {quote(home.name)}"
    mend = f"mend the text, or `git checkout -- {quote(str(path))}`, or delete the file and `{renew}`"
    return SnapshotError(f"{path}: the frozen text of {home.name} cannot be used, it {fault}.\n  {mend}", path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One run's world. Models are named strongest first: command line, environment, ``configure``, ini."""

    client: Client
    shelf: Shelf = field(default_factory=Shelf)
    command_line_model: str | None = None
    environment_model: str | None = None
    configured_model: str | None = None
    ini_model: str | None = None
    is_production: bool = False
    requires_snapshots: bool = False

    def choose_model(self, pinned: str | None = None) -> str:
        """The model that a prompt called here and now runs on. Raises ``ModelError`` when none is named anywhere."""
        evaluation = current_evaluation()
        model = (
            pinned
            or chosen_model()
            or (evaluation.model if evaluation else model_of_strays())
            or self.command_line_model
            or self.environment_model
            or self.configured_model
            or self.ini_model
        )
        if not model:
            raise ModelError(NO_MODEL)
        return model


NO_MODEL = (
    "no model is configured: name one with --prompt-model, the environment variable PROMPTOPT_MODEL, "
    'promptopt_model in the ini file, or configure(model=…); "offline/keyword" is a simulator that needs no key'
)


class _Production:
    """The runtime outside any run of ours: made on first use, changed by ``configure`` alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        self._client: Client | None = None
        self._catalog: Catalog | None = None
        self.model: str | None = None
        self.requires_snapshots = False
        self._warned: set[tuple[str, str]] = set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)

    def configure(self, model: str | None, requires_snapshots: bool | None, catalog: Catalog | None) -> None:
        with self._lock:
            self.model = self.model if model is None else model
            self.requires_snapshots = self.requires_snapshots if requires_snapshots is None else requires_snapshots
            self._runtime = None
            if catalog is not None:
                self._catalog, self._client = catalog, None

    def is_first_warning(self, name: str, model: str) -> bool:
        """Whether nobody was warned of this prompt on this model before; true once, whatever the number of threads."""
        with self._lock:
            is_first = (name, model) not in self._warned
            self._warned.add((name, model))
            return is_first

    def runtime(self) -> Runtime:
        with self._lock:
            if self._runtime is None:
                self._client = self._client or _production_client(self._catalog)
                self._runtime = Runtime(
                    client=self._client,
                    environment_model=os.environ.get("PROMPTOPT_MODEL"),
                    configured_model=self.model,
                    is_production=True,
                    requires_snapshots=self.requires_snapshots,
                )
            return self._runtime

    def _unlock(self) -> None:
        """In a forked child: whoever held a lock exists in the parent only."""
        self._lock = threading.Lock()
        if self._runtime is not None:
            self._runtime.shelf.unlock()


_production = _Production()

MOST_CALLS_AT_ONCE = 1_000
"""In production the application bounds its own concurrency; this keeps a runaway from opening connections for ever."""


def _production_client(catalog: Catalog | None) -> Client:
    from pytest_promptopt.lms.ceiling import Ceiling
    from pytest_promptopt.lms.client import Mode
    from pytest_promptopt.lms.registry import Registry

    catalog = catalog or Catalog(environ=os.environ)
    return Client(
        lm_for=Registry(catalog, environ=os.environ).lm_for,
        models=catalog,
        store=None,
        ceiling=Ceiling(),
        mode=Mode.LIVE,
        max_concurrency=MOST_CALLS_AT_ONCE,
        gives_up=False,
    )


def configure(
    *,
    model: str | None = None,
    require_snapshot: bool | None = None,
    models: Mapping[str, Mapping[str, Any] | str] | None = None,
) -> None:
    """Set what prompts run as outside pytest, and the default model inside it.

    ``model`` is weaker than ``PROMPTOPT_MODEL`` and stronger than the ini file. With ``require_snapshot`` a prompt
    whose snapshot is missing or stale raises :class:`~pytest_promptopt.errors.SnapshotError` in production; without it,
    it warns once and runs the source. ``models`` names models for production as ``[tool.pytest-promptopt.models]``
    does for pytest, with the same keys. Raises :class:`~pytest_promptopt.errors.ModelError` for a table that cannot be
    meant.
    """
    catalog = None if models is None else Catalog(models, environ=os.environ)
    _production.configure(model, require_snapshot, catalog)


def current_runtime() -> Runtime:
    """The runtime of the active run, else production's."""
    runtime = provided_runtime()
    if runtime is None:
        return _production.runtime()
    return runtime if _production.model is None else replace(runtime, configured_model=_production.model)


def check_production(snapshot: Snapshot, name: str, *, is_searched: bool) -> None:
    """Refuse or mention, once, that a prompt runs its source in production; one never searched misses no snapshot."""
    if snapshot.is_frozen or (snapshot.standing is Standing.SOURCE and not is_searched):
        return
    what = "stale" if snapshot.standing is Standing.STALE else "missing"
    message = f"{name}: its snapshot for {snapshot.model} is {what}, so the source runs ({snapshot.path})"
    if _production.requires_snapshots:
        raise SnapshotError(
            f"{message}; freeze one with: pytest --optimize-prompts --prompt {name}", path=snapshot.path
        )
    if _production.is_first_warning(name, snapshot.model):
        warnings.warn(message, PromptOptWarning, stacklevel=_level_of_caller())


def is_in_event_loop() -> bool:
    """Whether an event loop, asyncio's or trio's, runs in this thread; 0.1 µs, for every call asks it."""
    if asyncio._get_running_loop() is not None:  # get_running_loop raises instead, which costs ten times as much
        return True
    trio = sys.modules.get("trio.lowlevel")
    return trio is not None and bool(trio.in_trio_run())


def warn_of_blocking(name: str, way_out: str) -> None:
    """Say, at the caller's line, that an event loop stands still while ``name`` is answered."""
    message = f"{name} was called inside a running event loop, which stands still until it is answered: {way_out}"
    warnings.warn(message, PromptOptWarning, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """The ``stacklevel`` of whoever called into this package, as the function that asks has to give it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pytest_promptopt."):
        level, frame = level + 1, frame.f_back
    return level
