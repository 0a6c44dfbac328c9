"""Which prompts a source tree has, ours and other people's, found by reading alone: nothing is imported or run.

Files are sieved by their bytes before any of them is parsed, and what was read is remembered by path, time and size, so
that a second look at a thousand files costs little more than listing them. Texts are followed from where they stand to
where a model is asked, across files; what is remembered holds names, lines and counts, and never a text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path, PurePath, PurePosixPath

from pytest_promptopt.prompts.discovery.adoption import with_adoptions
from pytest_promptopt.prompts.discovery.cache import Remembered, read_cache, write_cache
from pytest_promptopt.prompts.discovery.findings import (
    Discovery,
    FileFacts,
    FoundText,
    ManagedPrompt,
    Sending,
    UnmanagedPrompt,
    Unread,
)
from pytest_promptopt.prompts.discovery.flows import Graph
from pytest_promptopt.prompts.discovery.likeness import count_words, find_placeholders, is_prompt_file
from pytest_promptopt.prompts.discovery.python_files import read_python

MAX_BYTES = 1 << 20

_PASSED_OVER = frozenset(
    {"__pycache__", "__prompts__", "node_modules", "site-packages", "dist-packages", "bower_components"}
)
_MAYBE_OTHERS = frozenset({"build", "dist", "eggs", "wheelhouse", "htmlcov", "vendor", "third_party"})
"""Folders of what was built or copied, unless they are packages of the project that are only called so."""

_ENVIRONMENTS = frozenset({"pyvenv.cfg", "conda-meta"})
"""What stands in a folder into which Python packages are installed, whatever it is called."""

_TEMPLATES = (".j2", ".jinja", ".jinja2", ".prompt", ".prompty")
_PROSE = (".txt", ".md")
_NOT_PROMPTS = frozenset({"readme", "changelog", "license", "licence", "contributing", "requirements", "notice"})
_WORDS_IN_ANY_CASE = (
    *(b"prompt", b"openai", b"anthropic", b"litellm", b"mistral", b"cohere", b"ollama", b"langchain", b"llama_index"),
    *(b"dspy", b"genai", b"generate_content", b"instruction", b"system_message", b"system_msg", b"system_text"),
    *(b"persona", b"preamble", b"completion", b"_template", b'"role"', b"'role'", b"messages.create", b".converse"),
    *(b" llm", b"_llm", b".llm", b"llm_", b"llm.", b"llm(", b"you are ", b"your task"),
)
_OPENINGS = tuple(
    before + verb + b" "
    for verb in (
        *(b"Answer", b"Classify", b"Decide", b"Explain", b"Extract", b"Generate", b"Given", b"List", b"Rewrite"),
        *(b"Summarise", b"Summarize", b"Translate", b"Write"),
    )
    for before in (b'"', b"'", b"\n")
)


def discover(root: Path, *, within: Sequence[Path] = (), cache: Path | None = None) -> Discovery:
    """What the files below ``root`` say; below (or of) ``within`` alone where that names any.

    ``cache`` is a file to remember them in. One that cannot be read is done without, one that cannot be written is not
    written. Whatever cannot be searched is listed, and never an error.
    """
    before = read_cache(cache)
    unread: list[Unread] = []
    passed_over: list[str] = []
    known: dict[str, Remembered] = {}
    for file in _files(root, within, unread, passed_over):
        path = _relative(file, root)
        remembered = _look(file, path, before.get(path))
        if remembered is None:
            unread.append(Unread(path=path, reason="it is gone, or may not be read"))
        else:
            known[path] = remembered
    files_read = sum(before.get(path) is not one for path, one in known.items())
    if files_read or (not within and len(known) < len(before)):
        write_cache(cache, {**before, **known} if within else known)
    facts = {path: one.facts for path, one in sorted(known.items())}
    unread += [Unread(path=path, reason=one.fault) for path, one in facts.items() if one.fault]
    managed = tuple(_managed(facts))
    return Discovery(
        managed=managed,
        unmanaged=with_adoptions(_unmanaged(facts), {prompt.name for prompt in managed}),
        unread=tuple(sorted(unread, key=lambda one: one.path)),
        passed_over=tuple(sorted(passed_over)),
        files=len(known),
        files_read=files_read,
    )


def _look(file: str, path: str, remembered: Remembered | None) -> Remembered | None:
    """What is remembered of the file if it has not changed, else what it says now; ``None`` without a file."""
    try:
        status = os.stat(file)  # noqa: PTH116 - a Path for each of a thousand files is half the time of a second look
    except OSError:
        return None
    stamp = (status.st_mtime_ns, status.st_size)
    if remembered is not None and (remembered.modified_ns, remembered.size_bytes) == stamp:
        return remembered
    return Remembered(modified_ns=stamp[0], size_bytes=stamp[1], facts=_read(file, path, status.st_size))


# --- files ------------------------------------------------------------------------------------------------------------


def _files(root: Path, within: Sequence[Path], unread: list[Unread], passed_over: list[str]) -> Iterator[str]:
    """The files to search, links passed over: what they point to is searched where it stands, and loops end nowhere.

    Nor are pipes and devices read, which might never end.
    """
    starts = [str(path) for path in (within or (root,))]
    waiting = [*starts]
    seen: set[str] = set()
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        if within and Path(here).is_file():
            yield from [here] if _is_wanted(_relative(here, root)) else []
            continue
        try:
            with os.scandir(here) as entries:
                found = [
                    (entry.name, entry.path, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False))
                    for entry in entries
                ]
        except OSError as error:
            unread.append(Unread(path=_relative(here, root), reason=error.strerror or "it cannot be listed"))
            continue
        if here not in starts and _is_others(here, {name for name, *_ in found}):
            passed_over.append(_relative(here, root))
            continue
        for name, path, is_folder, is_file in found:
            if is_folder and not name.startswith(".") and name not in _PASSED_OVER and not name.endswith(".egg-info"):
                waiting.append(path)
            elif is_file and _is_wanted(_relative(path, root)):
                yield path


def _is_others(folder: str, names: Set[str]) -> bool:
    """Whether a folder that holds ``names`` is an environment, or holds what was built or copied and is no package."""
    is_maybe_others = PurePath(folder).name in _MAYBE_OTHERS
    return not _ENVIRONMENTS.isdisjoint(names) or (is_maybe_others and "__init__.py" not in names)


def _is_wanted(path: str) -> bool:
    if path.endswith((".py", *_TEMPLATES)):
        return True
    return path.endswith(_PROSE) and "prompt" in path.lower()


def _relative(path: str, root: Path) -> str:
    """The path from ``root``, with slashes; the whole of one that is elsewhere."""
    return path.removeprefix(f"{str(root).rstrip(os.sep)}{os.sep}").replace(os.sep, "/")


def _read(path: str, shown: str, size_bytes: int) -> FileFacts:
    """What one file says; a fault where it cannot be read."""
    if size_bytes > MAX_BYTES:
        return FileFacts(fault="larger than 1 MiB")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return FileFacts(fault=error.strerror or "it cannot be read")
    if not shown.endswith(".py"):
        return _read_template(data, PurePosixPath(shown))
    place = PurePosixPath(shown)
    passes_on = place.stem == "__init__" and b"import" in data
    if not passes_on and not _may_speak_of_prompts(data):
        return FileFacts()
    parts = place.with_suffix("").parts
    module = ".".join(parts[:-1] if place.stem == "__init__" and len(parts) > 1 else parts)
    return read_python(data, module=module, stem=place.stem, is_test=_is_test(place))


def _may_speak_of_prompts(data: bytes) -> bool:
    """Whether a file is worth parsing. Word by word: that is five times as fast as one pattern for all of them."""
    lowered = data.lower()
    return (
        any(word in lowered for word in _WORDS_IN_ANY_CASE)
        or b"SYSTEM" in data
        or any(opening in data for opening in _OPENINGS)
    )


def _is_test(path: PurePosixPath) -> bool:
    """Whether texts in this file are test data rather than prompts."""
    return path.name == "conftest.py" or path.stem.startswith("test_") or path.stem.endswith("_test")


def _read_template(data: bytes, path: PurePosixPath) -> FileFacts:
    try:
        text = _without_front_matter(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return FileFacts(fault=f"line {data.count(bytes([10]), 0, error.start) + 1} is not UTF-8")
    if not _may_be_prompt_file(path) or not is_prompt_file(text, is_called_prompt="prompt" in path.as_posix().lower()):
        return FileFacts()
    found = FoundText(
        line=1,
        name="",
        owner="",
        kind="file",
        words=count_words(text),
        placeholders=find_placeholders(text),
        is_evident=True,
        has_own_name=False,
    )
    return FileFacts(texts=(found,))


def _may_be_prompt_file(path: PurePosixPath) -> bool:
    """Not a page or a configuration (``page.html.j2``), a read-me, or documentation about prompts."""
    inner = PurePosixPath(path.stem).suffix
    if inner and inner not in (*_PROSE, *_TEMPLATES, ".system", ".user", ".assistant"):
        return False
    is_documentation = path.suffix in _PROSE and bool({"docs", "doc"} & set(path.parts))
    return not is_documentation and path.stem.lower().partition(".")[0].partition("-")[0] not in _NOT_PROMPTS


def _without_front_matter(text: str) -> str:
    """The text after the settings that some prompt files open with."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)


# --- where texts go ---------------------------------------------------------------------------------------------------


def _managed(facts: dict[str, FileFacts]) -> Iterator[ManagedPrompt]:
    for path, one in facts.items():
        for name, line, kind in sorted(one.managed, key=lambda prompt: prompt[1]):
            yield ManagedPrompt(name=_named_after_package(name, path), file=path, line=line, kind=kind)


def _named_after_package(name: str, path: str) -> str:
    """Python calls a package by its folder, not ``__init__``."""
    folder = PurePosixPath(path).parent.name
    return f"{folder}.{name.partition('.')[2]}" if folder and name.startswith("__init__.") else name


def _unmanaged(facts: dict[str, FileFacts]) -> Iterator[UnmanagedPrompt]:
    """Every text that says it is a prompt or reaches a model, and is none of ours; those that are sent first."""
    graph = Graph(facts)
    found: list[UnmanagedPrompt] = []
    for path, one in facts.items():
        for place, text in enumerate(one.texts):
            sending, is_ours = graph.follow(path, f"T:{place}", is_file=text.kind == "file")
            if is_ours or not (text.is_evident or sending):
                continue
            found.append(_prompt(path, text, sending))
    found.sort(key=lambda prompt: (prompt.sending is None, prompt.file, prompt.line))
    return iter(found)


def _prompt(path: str, text: FoundText, sending: Sending | None) -> UnmanagedPrompt:
    return UnmanagedPrompt(
        file=path,
        line=text.line,
        name=text.name,
        owner=text.owner,
        kind=text.kind,
        words=text.words,
        placeholders=text.placeholders,
        has_own_name=text.has_own_name,
        sending=sending,
    )
