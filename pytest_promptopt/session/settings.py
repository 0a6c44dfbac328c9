"""Options, ini values and the environment, read once into one frozen record."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.errors import ModelError
from pytest_promptopt.evaluation.split import SplitRule
from pytest_promptopt.lms.client import Mode
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.session.git import merge_base

STRICT_CHOICES = ("stale", "orphan", "unrecorded", "unfrozen", "inconclusive")
DEFAULT_BUDGET = 1_000
DEFAULT_MAX_COST_USD = 1.00
AUTO = "auto"
CHOSEN_BY_AUTO = "reflect-race"
"""The strategy that ``auto`` stands for; files and reports name it, so that they mean the same when that changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a session was asked to do. ``budget`` and ``max_cost_usd`` are ``None`` where nothing limits them.

    ``has_own_budget`` says that somebody named the budget: then it counts simulators too. A worker of pytest-xdist has
    its share of what the whole run may spend. ``base`` is the commit whose baselines the gate compares with.
    ``frozen_on_purpose`` names winners to freeze though nothing proves them.
    ``typed_names`` is strategy → the name by which its settings were given, which messages use.
    """

    rootdir: Path
    is_optimizing: bool
    is_dry_run: bool
    is_ci: bool
    patterns: tuple[str, ...]
    models: tuple[str, ...]
    environment_model: str | None
    ini_model: str | None
    proposer: str | None
    optimizer: str
    optimizer_settings: Mapping[str, Mapping[str, Any]]
    typed_names: Mapping[str, str]
    catalog: Catalog
    budget: int | None
    has_own_budget: bool
    max_cost_usd: float | None
    mode: Mode
    mode_reason: str
    base: str | None
    has_own_mode: bool
    is_transferring: bool
    is_blessing: bool
    reports: tuple[Path, ...]
    frozen_on_purpose: tuple[str, ...]
    strict: frozenset[str]
    seed: int
    concurrency: int
    store: Path
    split: SplitRule
    freeze_alpha: float

    @property
    def default_model(self) -> str | None:
        """The model that a metric runs on when the command line names none; ``configure`` comes between the two."""
        return self.environment_model or self.ini_model


def is_ci() -> bool:
    """Whether this runs on a build server, by the variables that pytest itself goes by."""
    said_no = os.environ.get("CI", "").lower() in ("0", "false", "no")
    return not said_no and any(os.environ.get(name) for name in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "BUILDKITE"))


def read_settings(config: pytest.Config) -> Settings:
    """The settings of one session. Raises ``pytest.UsageError`` for a value that cannot be meant."""
    in_ci = is_ci()
    mode = config.getoption("prompt_lm") or config.getini("promptopt_lm") or ""
    mode = str(Mode.RECORD) if config.getoption("prompt_fulfil") else mode
    default_mode = Mode.REPLAY if in_ci and not config.getoption("optimize_prompts") else Mode.AUTO
    budget = config.getoption("prompt_budget") or config.getini("promptopt_budget") or ""
    rootdir = config.rootpath
    tables = _tool_tables(rootdir / "pyproject.toml")
    optimizer_settings, typed_names = _optimizer_settings(config, tables)
    share = _share_of(config)
    models = tuple(dict.fromkeys(config.getoption("prompt_model") or ()))
    return Settings(
        rootdir=rootdir,
        is_optimizing=bool(config.getoption("optimize_prompts")),
        is_dry_run=bool(config.getoption("prompt_dry_run")),
        is_ci=in_ci,
        patterns=tuple(config.getoption("prompt_patterns") or ()),
        models=models,
        environment_model=os.environ.get("PROMPTOPT_MODEL") or None,
        ini_model=config.getini("promptopt_model") or None,
        proposer=config.getoption("prompt_proposer") or config.getini("promptopt_proposer") or None,
        optimizer=_strategy(config.getoption("prompt_optimizer") or config.getini("promptopt_optimizer") or AUTO),
        optimizer_settings=optimizer_settings,
        typed_names=typed_names,
        catalog=_read_catalog(config, tables, share),
        budget=share.of_calls(_read_budget(budget) if budget else DEFAULT_BUDGET),
        has_own_budget=bool(budget),
        max_cost_usd=share.of_money(_read_max_cost(config)),
        mode=_read_mode(mode) if mode else default_mode,
        mode_reason="" if mode else ("CI is set" if default_mode is Mode.REPLAY else ""),
        has_own_mode=bool(mode),
        base=_read_base(config),
        is_transferring=_read_transfer(config, models, mode),
        is_blessing=bool(config.getoption("prompt_bless")),
        reports=_read_reports(config),
        frozen_on_purpose=_read_frozen_on_purpose(config),
        strict=_read_strict(config.getoption("prompt_strict"), config.getini("promptopt_strict"), in_ci),
        seed=_read_int(config, "prompt_seed", "promptopt_seed", 0, least=None),
        concurrency=_read_int(config, "prompt_concurrency", "promptopt_concurrency", 16, least=1),
        store=rootdir / (config.getini("promptopt_store") or ".promptopt"),
        split=_read_split(config),
        freeze_alpha=_read_share(config.getini("promptopt_freeze_alpha") or "0.2", "promptopt_freeze_alpha"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one of several workers of pytest-xdist may spend, so that all together keep to what was asked for."""

    index: int = 0
    count: int = 1

    def of_calls(self, calls: int | None) -> int | None:
        """An equal share of ``calls``; the first workers take what is left over."""
        return None if calls is None else calls // self.count + (self.index < calls % self.count)

    def of_money(self, usd: float | None) -> float | None:
        """An equal share of an amount."""
        return None if usd is None else usd / self.count


def _share_of(config: pytest.Config) -> Share:
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return Share()
    return Share(index=int(str(worker["workerid"]).removeprefix("gw")), count=int(worker["workercount"]))


def _read_mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise pytest.UsageError(f"--prompt-lm {text}: it is one of {', '.join(Mode)}") from None


def _read_transfer(config: pytest.Config, models: Sequence[str], mode: str) -> bool:
    """Whether to try each model's prompts on the others: a plain run of several models, which writes nothing."""
    if not config.getoption("prompt_transfer"):
        return False
    if len(models) < 2:
        raise pytest.UsageError(
            "--prompt-transfer tries each model's prompts on the others: name two models or more, each with "
            "--prompt-model"
        )
    flags = {"--optimize-prompts": "optimize_prompts", "--prompt-bless": "prompt_bless"}
    flags |= {"--prompt-dry-run": "prompt_dry_run", "--prompt-list": "prompt_list"}
    others = [flag for flag, name in flags.items() if config.getoption(name)]
    others += [f"--prompt-lm {mode}"] if mode in (Mode.RECORD, Mode.RERECORD) else []
    if others:
        raise pytest.UsageError(
            f"--prompt-transfer belongs to a plain run, which writes nothing: leave out {others[0]}, or it"
        )
    return True


def _read_base(config: pytest.Config) -> str | None:
    name = config.getoption("prompt_base")
    if not name:
        return None
    commit = merge_base(name, config.rootpath)
    if commit is None:
        raise pytest.UsageError(
            f"--prompt-base {name}: git finds no commit that this checkout shares with it. Fetch it with its history: "
            "git fetch --unshallow origin, or fetch-depth: 0 for actions/checkout"
        )
    return commit


def _read_budget(text: str) -> int | None:
    if not text or text == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise pytest.UsageError(f'--prompt-budget {text}: a number of LM calls, 1 or more, or "none"')
    return int(text)


def _read_max_cost(config: pytest.Config) -> float | None:
    """The smallest of the option (else ini, else 1.00) and the lid that the environment may hold."""
    asked = config.getoption("prompt_max_cost") or config.getini("promptopt_max_cost") or str(DEFAULT_MAX_COST_USD)
    lid = os.environ.get("PROMPTOPT_MAX_COST") or "none"
    limits = [_read_usd(text) for text in (asked, lid) if text != "none"]
    return min(limits, default=None)


def _read_usd(text: str) -> float:
    try:
        usd = float(text)
    except ValueError:
        usd = -1.0
    if not 0 <= usd < float("inf"):
        raise pytest.UsageError(f'--prompt-max-cost {text}: an amount of US dollars such as 0.50, or "none"')
    return usd


def _read_int(config: pytest.Config, option: str, ini: str, default: int, *, least: int | None) -> int:
    text = config.getoption(option)
    text = config.getini(ini) if text is None else text
    if text in (None, ""):
        return default
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f", {least} or more"
        raise pytest.UsageError(f"--{option.replace('_', '-')} {text}: a whole number{bound}")
    return number


def _read_share(text: str, name: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise pytest.UsageError(f"{name} = {text}: a number between 0 and 1")
    return share


def _read_strict(option: str | None, ini: str, in_ci: bool) -> frozenset[str]:
    text = option if option is not None else ini or ("stale,unrecorded" if in_ci else "none")
    names = [name.strip() for name in text.split(",") if name.strip()]
    if "all" in names:
        return frozenset(STRICT_CHOICES)
    for name in names:
        if name not in (*STRICT_CHOICES, "none"):
            raise pytest.UsageError(f"--prompt-strict {name}: choose from {', '.join(STRICT_CHOICES)}, all, none")
    return frozenset(names) - {"none"}


def _read_split(config: pytest.Config) -> SplitRule:
    text = config.getini("promptopt_split") or "30/30/40"
    parts = text.split("/")
    if (
        len(parts) != 3
        or not all(part.strip().isdecimal() for part in parts)
        or sum(map(int, parts)) != 100
        or int(parts[2]) == 0
    ):
        raise pytest.UsageError(
            f"promptopt_split = {text}: shares of train, val and test in percent, the last above 0, such as 30/30/40"
        )
    train, val, _ = (int(part) / 100 for part in parts)
    sealed = config.getini("promptopt_sealed_rows") or "200"
    if not sealed.isdecimal() or int(sealed) < 1:
        raise pytest.UsageError(f"promptopt_sealed_rows = {sealed}: a whole number, 1 or more")
    return SplitRule(train=train, val=val, salt=config.getini("promptopt_salt"), most_sealed_keys=int(sealed))


def _read_reports(config: pytest.Config) -> tuple[Path, ...]:
    if not config.getoption("prompt_report"):
        return ()
    from pytest_promptopt.session import reporting

    return reporting.read_paths(config)


def _read_frozen_on_purpose(config: pytest.Config) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(config.getoption("prompt_freeze") or ()))
    for name in names:
        if not re.fullmatch("p-[0-9a-f]{4}", name):
            raise pytest.UsageError(
                f"--prompt-freeze {name}: the name of a winner that a search kept, such as p-7f3a; "
                "the search tells it, and .promptopt/kept/ has a folder for each"
            )
    if names and not config.getoption("optimize_prompts"):
        raise pytest.UsageError(
            f"--prompt-freeze {names[0]} runs the search again that found it: add --optimize-prompts, and whatever "
            "else that search was started with"
        )
    return names


def _strategy(name: str) -> str:
    return CHOSEN_BY_AUTO if name == AUTO else name


def _optimizer_settings(
    config: pytest.Config, tables: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """``[tool.pytest-promptopt.NAME]`` tables, overridden by ``--prompt-set NAME.key=value``, and the NAMEs typed."""
    settings: dict[str, dict[str, Any]] = {}
    typed: dict[str, str] = {}
    for name, table in tables.items():
        if isinstance(table, dict) and name != "models":
            settings.setdefault(_strategy(name), {}).update(table)
            typed[_strategy(name)] = name
    for assignment in config.getoption("prompt_set") or ():
        name, dot, rest = assignment.partition(".")
        key, equals, value = rest.partition("=")
        if not (dot and equals and name and key):
            raise pytest.UsageError(f"--prompt-set {assignment}: write it as NAME.key=value, such as copro.breadth=5")
        settings.setdefault(_strategy(name), {})[key] = value
        typed[_strategy(name)] = name
    return settings, typed


def _read_catalog(config: pytest.Config, tables: Mapping[str, Any], share: Share) -> Catalog:
    """The models of the project; those that the session names are looked up at once, so that misuse is found here."""
    models = tables.get("models", {})
    if not isinstance(models, dict):
        raise pytest.UsageError('[tool.pytest-promptopt.models] is a table, such as mini = "openai/gpt-4.1-mini" in it')
    named = [
        *(config.getoption("prompt_model") or ()),
        *(config.getoption("prompt_proposer"), config.getini("promptopt_proposer")),
        *(os.environ.get("PROMPTOPT_MODEL"), config.getini("promptopt_model")),
    ]
    try:
        catalog = Catalog(models, environ=os.environ, workers=share.count)
        for name in filter(None, named):
            catalog.find(name)
    except ModelError as error:
        raise pytest.UsageError(str(error)) from None
    return catalog


def _tool_tables(path: Path) -> dict[str, Any]:
    try:
        tool: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise pytest.UsageError(f"{path}: {error}") from None
    tables: dict[str, Any] = tool.get("pytest-promptopt", {})
    stray = next((key for key, value in tables.items() if not isinstance(value, dict)), None)
    if stray is not None:
        raise pytest.UsageError(
            f"{path}: [tool.pytest-promptopt] holds tables alone, for models and strategies, and no {stray!r}; options "
            f"of a run stand where pytest's own do, as promptopt_{stray} in [tool.pytest.ini_options]"
        )
    return tables
