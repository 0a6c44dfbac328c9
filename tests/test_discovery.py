"""Discovery tells prompts from other texts, follows them to the model, and remembers files without their texts."""

# ruff: noqa: E501 - a snippet is easiest to read on its one line

from __future__ import annotations

import ast
import json
import os
import stat
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.prompts.discovery.python_files import read_python
from pytest_promptopt.prompts.discovery.search import MAX_BYTES, discover

CALM = settings(max_examples=150, deadline=None, derandomize=True)
LONG = "You are a patient librarian. Answer in two sentences, and name the book that you looked it up in."


@pytest.fixture
def tree(tmp_path):
    """Writes files, dedented, and gives their folder."""

    def write(**files: str | bytes) -> Path:
        for name, content in files.items():
            path = tmp_path / (name if "." in name else name.replace("__", "/").replace("_py", ".py"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else dedent(content).lstrip("\n").encode())
        return tmp_path

    return write


def found(root: Path, **options: object) -> list[str]:
    """What was found, as ``file:line name``."""
    return [f"{one.file}:{one.line} {one.name}".rstrip() for one in discover(root, **options).unmanaged]  # type: ignore[arg-type]


SENT = {
    "openai": 'client.chat.completions.create(model="m", messages=[{"role": "system", "content": TEXT}])',
    "openai responses": 'client.responses.create(model="m", instructions=TEXT, input=question)',
    "anthropic": 'client.messages.create(model="m", system=TEXT, messages=history)',
    "litellm": 'import litellm; litellm.completion("m", messages=[{"role": "user", "content": TEXT.format(q=1)}])',
    "litellm from": 'from litellm import acompletion; acompletion(model="m", messages=build(TEXT))',
    "google": 'model.generate_content(TEXT + "\\n" + question)',
    "google config": 'client.models.generate_content(model="m", contents=question, config=Config(system_instruction=TEXT))',
    "mistral": 'client.chat.complete(model="m", messages=[dict(role="user", content=TEXT)])',
    "cohere": "import cohere; cohere.Client().chat(message=question, preamble=TEXT)",
    "ollama": 'import ollama; ollama.chat(model="m", messages=[{"role": "user", "content": f"{TEXT} {question}"}])',
    "agent": 'Agent("m", instructions=TEXT)',
    "langchain": "from langchain_core.messages import SystemMessage; SystemMessage(content=TEXT)",
    "langchain template": 'ChatPromptTemplate.from_messages([("system", TEXT), ("human", "{question}")])',
    "llama_index": "from llama_index.core import PromptTemplate; PromptTemplate(TEXT)",
    "http": 'requests.post("https://api.openai.com/v1/chat/completions", json={"messages": [{"role": "user", "content": TEXT}]})',
    "a list that grows": 'messages = []\n    messages.append({"role": "user", "content": TEXT})\n    client.chat.completions.create(messages=messages)',
    "a local name": 'text = TEXT.replace("a", "b")\n    client.chat.completions.create(messages=[{"role": "user", "content": text}])',
}


@pytest.mark.parametrize("call", SENT.values(), ids=SENT.keys())
def test_a_text_without_a_telling_name_is_found_when_a_model_is_asked_with_it(tree, call):
    root = tree(chat_py=f"# an llm\nTEXT = '{LONG}'\n\ndef answer(client, question, history=()):\n    {call}\n")
    (one,) = discover(root).unmanaged
    assert (one.file, one.line, one.name) == ("chat.py", 2, "TEXT")
    assert one.sending is not None
    assert one.sending.line >= 5


NAMED = {
    "by its name": (f"SYSTEM_PROMPT = '{LONG}'", 1, "SYSTEM_PROMPT"),
    "in brackets": (f"SUMMARY_PROMPT = (\n    'Summarise this for {{reader}}. '\n    '{LONG}'\n)", 1, "SUMMARY_PROMPT"),
    "in an attribute": (
        f"class A:\n    def __init__(self):\n        self.system_prompt = '{LONG}'",
        3,
        "system_prompt",
    ),
    "in a class": (f"class A:\n    system_message: str = '{LONG}'", 2, "system_message"),
    "as a default": (f"def ask(question, system_prompt='{LONG}'):\n    pass", 1, "system_prompt"),
    "as a keyword": (f"bot = Bot(\n    system_prompt='{LONG}',\n)", 2, "bot"),
    "in a dict": (f"PROMPTS = {{\n    'a': '{LONG}',\n}}", 2, 'PROMPTS["a"]'),
    "as a key": (f"settings = {{\n    'system_prompt': '{LONG}',\n}}", 2, 'settings["system_prompt"]'),
    "behind the environment": (f"PROMPT = os.getenv('PROMPT', '{LONG}')", 1, "PROMPT"),
    "dedented": (
        'import textwrap\nASK_PROMPT = textwrap.dedent("""\n    You answer questions about birds.\n""")',
        2,
        "ASK_PROMPT",
    ),
    "as lines": ('PROMPT = "\\n".join([\n    "You answer questions.",\n    "Never guess.",\n])', 1, "PROMPT"),
    "short, but an instruction": ('PROMPT = "Translate this to French: {text}"', 1, "PROMPT"),
    "in German": (
        'PROMPT = "Du bist ein hilfreicher Gehilfe und beantwortest jede Frage in genau zwei ganzen Sätzen."',
        1,
        "PROMPT",
    ),
    "as a message": (
        f"def f(q):\n    return [\n        {{'role': 'system', 'content': '{LONG}'}},\n        {{'role': 'user', 'content': q}},\n    ]",
        3,
        "",
    ),
    "as a list of messages": (
        f"CHAT = [\n    {{'role': 'system', 'content': '{LONG}'}},\n    {{'role': 'user', 'content': '{{q}}'}},\n]",
        1,
        "CHAT",
    ),
    "as a signature": (
        f"import dspy\nclass Qa(dspy.Signature):\n    '''{LONG}'''\n    question = dspy.InputField()",
        2,
        "Qa",
    ),
    "as a template with gaps": (
        'LETTER_TEMPLATE = "Write a letter to {name} that says only: {message}. Do not add anything."',
        1,
        "LETTER_TEMPLATE",
    ),
}


@pytest.mark.parametrize(("code", "line", "name"), NAMED.values(), ids=NAMED.keys())
def test_a_text_that_says_it_is_a_prompt_is_found_with_its_line(tree, code, line, name):
    assert found(tree(a_py=code)) == [f"a.py:{line} {name}".rstrip()]


OTHER = {
    "a docstring": f'def prompt():\n    """{LONG}"""',
    "a module's docstring": f'"""{LONG}"""\nimport openai',
    "SQL": 'PROMPT_QUERY = "SELECT prompt, answer FROM prompts WHERE created > now() AND model = :model ORDER BY created LIMIT 10"',
    "a page": 'PROMPT_PAGE_TEMPLATE = "<html><body>You are logged in as {name}. If you are not {name}, never answer this.</body></html>"',
    "a licence": 'SYSTEM = "Permission is hereby granted, free of charge, to any person obtaining a copy, and you must always keep it"',
    "a question at the keyboard": 'PROMPT = "Are you sure that you want to delete all of these files for ever and ever? [y/N] "',
    "a password": 'PASSWORD_PROMPT = "Please enter the password that you were given when your account was opened last year: "',
    "a short one": 'PROMPT = ">>> "',
    "help": f'parser.add_argument("--prompt", help="{LONG}")',
    "a log line": f'log.info("{LONG}")  # prompt',
    "an exception": f'def f():\n    raise ValueError("{LONG}")  # prompt',
    "a pattern": r'PROMPT = r"^(?:[\w.]+ )*\$ (?P<command>.+) (?P<rest>.+) a b c d e f g h i j k l m n o p$"',
    "a letter": 'ORDER_TEMPLATE = "Dear {name}, your order {number} has left our warehouse and will be with you on {day}."',
    "a text message": 'twilio.messages.create(body="You will find your parcel at the door. Answer STOP to end this, always.", to=number)  # prompt',
    "what the model said": f"history = [{{'role': 'assistant', 'content': '{LONG}'}}]",
    "a path": 'PROMPT_FILE = "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q"',
    "data": 'PROMPT_EXAMPLE = \'{"question": "Which answer do you always give, and in what language, please?", "answer": "none"}\'',
}


@pytest.mark.parametrize("code", OTHER.values(), ids=OTHER.keys())
def test_other_texts_are_left_alone(tree, code):
    assert found(tree(a_py=code)) == []


@pytest.mark.parametrize(
    ("name", "text", "gaps"),
    [
        (
            "templates/ask.j2",
            "Answer the question only from the context.\n{{ question }} {{ context }}",
            ("{{ question }}", "{{ context }}"),
        ),
        ("a.prompty", "---\nname: x\n---\nsystem:\nYou are terse. Answer in one word, please: {{q}}", ("{{ q }}",)),
        ("prompts/review.md", "Review the essay of {pupil}. Give one mark, and one reason for it.", ("{pupil}",)),
        ("judge_prompt.txt", "Judge whether the answer is right. Reply with yes or no alone.", ()),
    ],
)
def test_template_files_are_found_with_their_gaps(tmp_path, name, text, gaps):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    (one,) = discover(tmp_path).unmanaged
    assert (one.file, one.kind, one.placeholders) == (name, "file", gaps)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "templates/page.html.j2",
            "You are {{ name }}. Answer the question in the context below, please, and do not wait.",
        ),
        (
            "templates/nginx.j2",
            "server { listen {{ port }}; server_name {{ host }}; root /srv/www; index index.html; }",
        ),
        (
            "prompts/README.md",
            "Each file here is a prompt. Write them in the present tense, and never use abbreviations.",
        ),
        ("docs/prompts.md", "You are reading the manual. Answer every question that your users ask about our prompts."),
        ("notes.md", "You are to buy milk. Answer the letter of the bank, and never forget the bread again."),
    ],
)
def test_files_that_are_no_prompts_are_left_alone(tmp_path, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert found(tmp_path) == []


def test_a_text_is_followed_across_files_wrappers_and_packages(tree):
    root = tree(
        src__app__texts_py=f"BIRDS = '{LONG}'\nUNUSED = '{LONG}'\n",
        **{"src/app/core/__init__.py": "from .client import complete\n"},
        src__app__core__client_py="""
            def complete(question, background):
                messages = [{"role": "system", "content": background}, {"role": "user", "content": question}]
                return llm().chat.completions.create(messages=messages)
        """,
        src__app__birds_py="""
            from app.core import complete
            from . import texts

            def answer(question):
                prompt = texts.BIRDS
                return complete(question, background=prompt)
        """,
    )
    (one,) = discover(root).unmanaged
    assert (one.file, one.line, one.name) == ("src/app/texts.py", 1, "BIRDS")
    assert str(one.sending) == "src/app/birds.py:6 (openai)"


def test_a_class_is_followed_from_its_constructor_to_its_methods(tree):
    root = tree(
        bots_py=f"""
            TEXT = '{LONG}'

            class Bot:
                def __init__(self, client, background):
                    self.background = background

                def ask(self, question):
                    return self.client.messages.create(system=self.background, messages=question)

            def main(client):
                return Bot(client, TEXT).ask("hello")
        """
    )
    assert [str(one.sending) for one in discover(root).unmanaged] == ["bots.py:11 (anthropic)"]


def test_prompts_of_ours_are_found_under_every_spelling_of_the_import(tree):
    root = tree(
        desk__a_py="from pytest_promptopt import prompt\n\n\n@prompt\ndef route(ticket: str) -> str:\n    '''Route.'''\n",
        desk__b_py="import pytest_promptopt as po\n\n@po.prompt(name='desk.tone')\nasync def tone(text: str) -> str: ...\n",
        desk__c_py="from pytest_promptopt import prompt as p, text_prompt as tp\nclass Box:\n    @p\n    def inner(x: str) -> str: ...\nREPLY = tp('desk.reply', 'Answer.')\n",
        **{"desk/__init__.py": "from pytest_promptopt import prompt\n@prompt\ndef sort(x: str) -> str: ...\n"},
        desk__d_py="from click import prompt\n\n@prompt\ndef not_ours(): ...\n",
        desk__test_e_py="from pytest_promptopt import prompt\n@prompt\ndef judge(x: str) -> bool: ...\n",
    )
    managed = {(one.name, one.file, one.line, one.kind) for one in discover(root).managed}
    assert managed == {
        ("a.route", "desk/a.py", 4, "@prompt"),
        ("desk.tone", "desk/b.py", 3, "@prompt"),
        ("c.Box.inner", "desk/c.py", 3, "@prompt"),
        ("desk.reply", "desk/c.py", 5, "text_prompt"),
        ("desk.sort", "desk/__init__.py", 2, "@prompt"),
        ("test_e.judge", "desk/test_e.py", 2, "@prompt"),
    }


def test_what_is_wrapped_in_a_prompt_of_ours_is_not_reported_again(tree):
    root = tree(
        a_py=f"from pytest_promptopt import text_prompt\nSYSTEM_PROMPT = '{LONG}'\nSYSTEM_PROMPT = text_prompt('a.system', SYSTEM_PROMPT)\n",
        b_py=f"from pytest_promptopt import text_prompt\nASK_PROMPT = text_prompt('b.ask', '{LONG}')\n",
        c_py="from pytest_promptopt import text_prompt\nASK = text_prompt('c.ask', file='templates/ask.j2')\n",
        d_py=f"OTHER_PROMPT = '{LONG}'\n",
    )
    (root / "templates").mkdir()
    (root / "templates/ask.j2").write_text("Answer the question only from the context.\n{{ question }}")
    assert found(root) == ["d.py:1 OTHER_PROMPT"]


def test_texts_in_test_files_are_test_data(tree):
    code = f"SYSTEM_PROMPT = '{LONG}'\n"
    assert found(tree(test_a_py=code, a_test_py=code, conftest_py=code, tests__judge_py=code)) == [
        "tests/judge.py:1 SYSTEM_PROMPT"
    ]


@pytest.mark.parametrize(
    ("code", "adoption"),
    [
        (f"SYSTEM = '{LONG}'", 'SYSTEM = text_prompt("support.system", SYSTEM)'),
        (f"ASK_PROMPT = '{LONG}'", 'ASK_PROMPT = text_prompt("support.ask", ASK_PROMPT)'),
        (f"PROMPTS = {{'tag': '{LONG}'}}", 'PROMPTS["tag"] = text_prompt("support.tag", PROMPTS["tag"])'),
        (
            f"def sort():\n    prompt = '{LONG}'",
            'SORT = text_prompt("support.sort", …)  with the text itself, at the top of the module',
        ),
        ("def sort(x):\n    prompt = f'Sort these birds by {x}, please.'", "SORT.format(x=…)"),
    ],
)
def test_the_adopting_line_is_the_one_to_write(tree, code, adoption):
    (one,) = discover(tree(support__texts_py=code)).unmanaged
    assert adoption in one.adoption


@pytest.mark.parametrize(
    ("code", "is_bare"),
    [
        (f"SYSTEM = '{LONG}'", True),
        (f"SYSTEM = '{LONG} {{ticket}}'", False),
        (f"SYSTEM = [{{'role': 'system', 'content': '{LONG}'}}]", False),
    ],
)
def test_the_adopting_line_says_where_the_text_is_handed_over_as_a_string(tree, code, is_bare):
    (one,) = discover(tree(support__texts_py=code)).unmanaged
    assert one.adoption.endswith("# and str(SYSTEM) where it is sent") == is_bare
    ast.parse(one.adoption)


def test_what_is_added_to_a_prompt_is_a_part_of_it(tree):
    root = tree(
        a_py=f"def f(c, x):\n    prompt = '{LONG}'\n    prompt += ' Answer only in rhymes, please.'\n    c.messages.create(system=prompt)\n"
    )
    (one,) = discover(root).unmanaged
    assert (one.line, str(one.sending)) == (2, "a.py:4 (anthropic)")


@pytest.mark.parametrize(
    "code", [f"PROMPTS = ('{LONG}',)", f"PROMPTS = {{'{LONG}': '{LONG}'}}", f"PROMPT = a or '{LONG}'"]
)
def test_a_text_that_no_line_can_bind_anew_is_moved(tree, code):
    (one,) = discover(tree(a_py=code)).unmanaged
    assert one.adoption.endswith("with the text itself, at the top of the module")


def test_names_of_adopted_prompts_never_meet(tree):
    code = f"SYSTEM = '{LONG}'\n"
    root = tree(
        desk__a_py=code,
        desk__b_py=code,
        desk__c_py="from pytest_promptopt import text_prompt\nS = text_prompt('desk.system', 'x')\n",
    )
    assert [one.adoption for one in discover(root).unmanaged] == [
        'SYSTEM = text_prompt("desk.a.system", SYSTEM)   # and str(SYSTEM) where it is sent',
        'SYSTEM = text_prompt("desk.b.system", SYSTEM)   # and str(SYSTEM) where it is sent',
    ]


# --- files ------------------------------------------------------------------------------------------------------------


def test_folders_of_other_people_and_of_tools_are_passed_over(tree):
    code = f"SYSTEM_PROMPT = '{LONG}'\n"
    root = tree(
        env__lib__a_py=code,
        node_modules__a_py=code,
        build__lib__desk__a_py=code,
        own__lib__b_py=code,
        ok__a_py=code,
        ok__vendor__a_py=code,
    )
    (root / "own/pyvenv.cfg").write_text("home = /usr/bin\n")
    (root / "env/conda-meta").mkdir()
    for name in (".git", ".tox", "__pycache__", "site-packages"):
        (root / name).mkdir()
        (root / name / "a.py").write_text(code)
    assert found(root) == ["ok/a.py:1 SYSTEM_PROMPT"]
    assert discover(root).passed_over == ("build", "env", "ok/vendor", "own")


@pytest.mark.parametrize("name", ["env", "venv", "build", "dist", "vendor", "third_party"])
def test_a_package_that_is_only_called_like_one_of_them_is_searched(tree, name):
    root = tree(**{f"{name}/__init__.py": "", f"{name}/a.py": f"SYSTEM_PROMPT = '{LONG}'\n"})
    assert found(root) == [f"{name}/a.py:1 SYSTEM_PROMPT"]
    assert discover(root).passed_over == ()


def test_a_pipe_is_not_waited_for(tree):
    root = tree(ok__a_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    os.mkfifo(root / "ok/prompt.py")
    assert found(root) == ["ok/a.py:1 SYSTEM_PROMPT"]
    assert discover(root, within=[root / "ok/prompt.py"]).files == 0


def test_a_folder_that_links_to_itself_ends(tree):
    root = tree(a__b_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    (root / "a/again").symlink_to(root, target_is_directory=True)
    assert found(root) == ["a/b.py:1 SYSTEM_PROMPT"]


def test_files_that_cannot_be_read_are_counted_and_named(tree):
    root = tree(
        old_py="print 'the prompt'\n",
        broken_py=b"PROMPT = '\xff'\n",
        nul_py=b"PROMPT = '\0'\n",
        good_py=f"SYSTEM_PROMPT = '{LONG}'\n",
    )
    (root / "huge.py").write_bytes(b"#" * (MAX_BYTES + 1))
    (root / "latin.prompt").write_bytes(b"Answer the question \xe9 from the context, in at most one sentence.")
    (root / "deep.py").write_text("PROMPT = " + "-" * 3_000 + "1")
    result = discover(root)
    assert {one.path for one in result.unread} == {
        "old.py",
        "broken.py",
        "nul.py",
        "huge.py",
        "latin.prompt",
        "deep.py",
    }
    assert all(one.reason for one in result.unread)
    assert len(result.unmanaged) == 1


def test_the_name_of_the_folder_around_the_project_says_nothing(tmp_path):
    (tmp_path / "prompts/app").mkdir(parents=True)
    (tmp_path / "prompts/app/notes.txt").write_text(
        "You are to answer the letter of the bank, and never forget the bread again."
    )
    assert found(tmp_path / "prompts/app") == []
    assert found(tmp_path) == ["prompts/app/notes.txt:1"]


def test_paths_restrict_the_search(tree):
    root = tree(a__x_py=f"SYSTEM_PROMPT = '{LONG}'\n", b__y_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    assert found(root, within=[root / "a"]) == ["a/x.py:1 SYSTEM_PROMPT"]
    assert found(root, within=[root / "b/y.py"]) == ["b/y.py:1 SYSTEM_PROMPT"]


def test_a_sum_of_a_thousand_texts_is_one_text(tree):
    root = tree(a_py="PROMPT = " + " + ".join(["'Answer this, please. '"] * 800))
    assert [one.words for one in discover(root).unmanaged] == [2400]


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_a_second_look_reads_no_file_and_finds_the_same(tree, tmp_path):
    root = tree(
        p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n",
        p__b_py="def f(c, x):\n    c.messages.create(system=x)\n",
        p__old_py="print 'prompt'\n",
    )
    cache = tmp_path / "store/discovery.json"
    cold, warm = discover(root, cache=cache), discover(root, cache=cache)
    assert (cold.files_read, warm.files_read) == (3, 0)
    assert (warm.managed, warm.unmanaged, warm.unread) == (cold.managed, cold.unmanaged, cold.unread)


def test_a_changed_file_is_read_anew_and_a_deleted_one_forgotten(tree, tmp_path):
    cache = tmp_path / "store/discovery.json"
    root = tree(p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n", p__b_py=f"OTHER_PROMPT = '{LONG}'\n")
    discover(root, cache=cache)
    (root / "p/b.py").unlink()
    os.utime(root / "p/a.py", ns=(1, 1))
    (root / "p/a.py").write_text(f"\nSYSTEM_PROMPT = '{LONG}'\n")
    again = discover(root, cache=cache)
    assert again.files_read == 1
    assert [one.line for one in again.unmanaged] == [2]
    assert list(json.loads(cache.read_text())["files"]) == ["p/a.py"]


def test_what_is_remembered_is_private_and_holds_no_text(tree, tmp_path):
    cache = tmp_path / "store/discovery.json"
    root = tree(
        a_py=f"SYSTEM_PROMPT = '{LONG}'\ndef f(x):\n    prompt = f'Answer {{x}} and {{\"sesame\" + x}}, please, now.'\n"
        f"PROMPTS = {{'{LONG}': '{LONG}'}}\n"
    )
    discover(root, cache=cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    assert "*" in (cache.parent / ".gitignore").read_text().split()
    assert not any(word in cache.read_text() for word in ("librarian", "sesame", "please"))


def test_a_deleted_file_is_forgotten_though_no_other_has_changed(tree, tmp_path):
    cache = tmp_path / "store/discovery.json"
    root = tree(p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n", p__b_py=f"OTHER_PROMPT = '{LONG}'\n")
    discover(root, cache=cache)
    (root / "p/b.py").unlink()
    discover(root, cache=cache)
    assert list(json.loads(cache.read_text())["files"]) == ["p/a.py"]


def test_what_another_version_remembers_is_not_believed(tree, tmp_path):
    cache = tmp_path / "store/discovery.json"
    root = tree(p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    discover(root, cache=cache)
    content = json.loads(cache.read_text())
    files = {name: entry[:2] for name, entry in content["files"].items()}  # as if nothing had been found
    cache.write_text(json.dumps({"reader": [0, *content["reader"][1:]], "files": files}))
    assert found(root, cache=cache) == ["p/a.py:1 SYSTEM_PROMPT"]
    cache.write_text(json.dumps({**content, "files": files}))
    assert found(root, cache=cache) == []


def test_what_python_would_warn_of_is_the_files_own_business(tree):
    assert found(tree(a_py='PROMPT = "You count \\d words and answer with the number."\n')) == ["a.py:1 PROMPT"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"reader": [1], "files": {}}', '{"reader": null, "files": 3}', "\x00"]
)
def test_a_broken_memory_is_done_without_and_written_anew(tree, tmp_path, content):
    cache = tmp_path / "store/discovery.json"
    root = tree(p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    discover(root, cache=cache)
    good = cache.read_text()
    cache.write_text(content)
    assert found(root, cache=cache) == ["p/a.py:1 SYSTEM_PROMPT"]
    assert cache.read_text() == good


def test_entries_that_make_no_sense_are_read_anew(tree, tmp_path):
    cache = tmp_path / "store/discovery.json"
    root = tree(p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    discover(root, cache=cache)
    content = json.loads(cache.read_text())
    for spoiled in ([], [1], ["x", 2], [1, 2, 3], [*content["files"]["p/a.py"][:2], [], [[1]], [], [], ""]):
        cache.write_text(json.dumps({**content, "files": {"p/a.py": spoiled}}))
        assert found(root, cache=cache) == ["p/a.py:1 SYSTEM_PROMPT"]


def test_a_folder_that_cannot_hold_the_memory_is_no_error(tree, tmp_path):
    (tmp_path / "file").write_text("")
    root = tree(p__a_py=f"SYSTEM_PROMPT = '{LONG}'\n")
    assert found(root, cache=tmp_path / "file/discovery.json") == ["p/a.py:1 SYSTEM_PROMPT"]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("")
    assert found(root, cache=foreign / "discovery.json") == ["p/a.py:1 SYSTEM_PROMPT"]
    assert [path.name for path in foreign.iterdir()] == ["precious"]


# --- anything at all --------------------------------------------------------------------------------------------------


@CALM
@given(st.binary(max_size=300))
def test_no_bytes_crash_it(data):
    read_python(b"PROMPT = " + data, module="a", stem="a")
    read_python(data, module="a", stem="a")


_NAMES = st.sampled_from(["PROMPT", "system", "x", "self", "client.messages.create", "text_prompt", "dedent", "{x}"])
_EXPRESSIONS = st.recursive(
    _NAMES.filter(lambda name: "{" not in name) | st.text(max_size=60).map(repr) | st.just(repr(LONG)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]} + {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"{{'role': {two[0]}, 'content': {two[1]}}}"),
        st.lists(inner, max_size=3).map(lambda many: f"[{', '.join(many)}]"),
        st.tuples(_NAMES.filter(lambda name: "{" not in name), inner).map(
            lambda two: f"{two[0]}({two[1]}, system={two[1]})"
        ),
        inner.map(lambda one: f"(lambda x=1: {one})"),
        inner.map(lambda one: f"[{one} for x in {one}]"),
        inner.map(lambda one: f"({one}).join([{one}])"),
    ),
    max_leaves=12,
)


@CALM
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "x = {}",
                    "def f(a, b={}):\n    return b",
                    "class A:\n    p = {}",
                    "for x in {}: pass",
                    "{}",
                    "x[{0}] = {0}",
                ]
            ),
            _EXPRESSIONS,
        ),
        max_size=4,
    )
)
def test_no_program_crashes_it(lines):
    code = "\n".join(form.format(expression) for form, expression in lines)
    facts = read_python(code.encode("utf-8", "surrogatepass"), module="a.b", stem="b")
    assert all(text.line <= code.count("\n") + 1 for text in facts.texts)
