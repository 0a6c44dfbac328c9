"""What a Python file says about prompts, read without running it: prompts of ours, other texts, and where those go.

The walk is one over the syntax tree. Every expression gives the nodes (see :class:`Flow`) that its value may come from;
assignments, arguments and returns become flows between them. It errs towards too many flows: whoever asks a model with
``f(TEXT)`` is taken to send ``TEXT``.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pytest_promptopt.prompts.discovery.findings import FileFacts, Flow, FoundText
from pytest_promptopt.prompts.discovery.flows import pruned
from pytest_promptopt.prompts.discovery.likeness import (
    Evidence,
    count_words,
    evidence_of_name,
    find_placeholders,
    is_prompt,
)
from pytest_promptopt.prompts.discovery.literals import (
    ASKING_ROLES,
    StaticText,
    dotted_name,
    endpoint_sdk,
    message_text,
    role_of,
    static_text,
    template_pieces,
)
from pytest_promptopt.prompts.discovery.sdk_calls import (
    MENTIONS,
    is_payload,
    sdk_of_call,
    template_class,
    template_sdk,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef

_TEMPLATE_FILE = re.compile(r"[\w./\\-]+\.(?:j2|jinja2?|prompt|prompty|txt|md)$")
_STRING_TEMPLATES = ("Template", "from_string")
_ADDING = frozenset({"append", "extend", "insert", "add"})
_KEY = re.compile(r"[\w.:/-]{1,40}")
_OURS = "pytest_promptopt"


def read_python(data: bytes, *, module: str, stem: str, is_test: bool = False) -> FileFacts:
    """The facts of the file ``data``, which is imported as ``module``; in a test file, prompts of ours alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the file's own business, such as "\d" in a string
            tree = ast.parse(data)
        reader = _Reader(tree, module=module, stem=stem, mentions=_mentions(data))
        reader.read()
        return reader.facts(only_managed=is_test)
    except SyntaxError as error:
        return FileFacts(fault=f"line {error.lineno or 1}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return FileFacts(fault=str(error) or "nested too deeply")


def _mentions(data: bytes) -> frozenset[str]:
    return frozenset(word for word in MENTIONS if word.encode() in data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Where an expression stands: the function with its parameters and own names, the class, and what is around it."""

    function: str = ""
    label: str = ""
    class_name: str = ""
    parameters: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    outer: _Scope | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """What a value is called, and what the name says; ``line`` is the statement's where the name is the value's own."""

    name: str = ""
    evidence: Evidence = Evidence.NONE
    line: int | None = None
    can_rebind: bool = False

    def inside(self, key: str = "") -> _Label:
        """The label of a part of the value, which ``key`` leads to."""
        evidence = max(self.evidence, evidence_of_name(key.strip("\"'[]")))
        return _Label(
            name=f"{self.name}{key}" if self.name else "", evidence=evidence, can_rebind=self.can_rebind and bool(key)
        )

    def wrapped(self) -> _Label:
        """The label of a text that the value is made from."""
        return _Label(name=self.name, evidence=self.evidence, line=self.line)


class _Reader:
    """One file's walk."""

    def __init__(self, tree: ast.Module, *, module: str, stem: str, mentions: frozenset[str]) -> None:
        self.tree = tree
        self.module = module
        self.stem = stem
        self.mentions = mentions
        self.imports: dict[str, str] = {}
        self.own_names: set[str] = set()
        self.managed: list[tuple[str, int, str]] = []
        self.texts: list[FoundText] = []
        self.flows: list[Flow] = []

    def read(self) -> None:
        package = self.module if self.stem == "__init__" else self.module.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports.update(_imported(node, package))
        self.own_names = _bound_names(self.tree.body)
        if self.stem == "__init__":  # what a package imports, others import from the package
            for name, origin in self.imports.items():
                if origin.partition(".")[0] == self.module.partition(".")[0]:
                    self._flow(f"G:{origin}", f"G:{self.module}.{name}", 0)
        self._block(self.tree.body, _Scope())

    def facts(self, *, only_managed: bool) -> FileFacts:
        if only_managed:
            return FileFacts(managed=tuple(self.managed))
        texts, flows = pruned(self.texts, self.flows, self.module)
        return FileFacts(managed=tuple(self.managed), texts=texts, flows=flows)

    # --- statements -------------------------------------------------------------------------------------------------

    def _block(self, statements: Iterable[ast.stmt], scope: _Scope) -> None:
        for statement in statements:
            self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.Assign(targets=targets, value=value):
                self._assign(targets, value, node.lineno, scope)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign([target], value, node.lineno, scope)
            case ast.AugAssign(target=target, value=value):
                self._append(target, value, node.lineno, scope)
            case ast.Return(value=ast.expr() as value):
                self._flow_all(self._value(value, scope), f"R:{scope.function}", node.lineno)
            case ast.Expr(value=ast.Constant()):
                pass  # a docstring, or a remark
            case ast.Expr(value=value):
                self._value(value, scope)
            case _:
                self._parts(node, scope)

    def _parts(self, node: ast.AST, scope: _Scope) -> None:
        """The expressions and blocks of any other statement; what a loop or a ``with`` binds gets what it runs over."""
        if isinstance(node, ast.For | ast.AsyncFor):
            self._assign([node.target], node.iter, node.lineno, scope)
            self._block([*node.body, *node.orelse], scope)
            return
        if isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._assign([node.optional_vars], node.context_expr, node.context_expr.lineno, scope)
            return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child, scope)
            elif isinstance(child, ast.expr):
                self._value(child, scope)
            else:
                self._parts(child, scope)

    def _function(self, node: Function, scope: _Scope) -> None:
        decorators = [self._resolved(dotted_name(_called(decorator)), scope) for decorator in node.decorator_list]
        if any(_is_ours(name, "prompt") for name in decorators):
            self._note_managed_function(node, scope)
            return
        for decorator in node.decorator_list:
            self._value(decorator, scope)
        prefix = scope.class_name or scope.function or self.module
        name = f"{prefix}.{node.name}"
        inner = _Scope(
            function=name,
            label=f"{scope.label}.{node.name}".lstrip("."),
            class_name=scope.class_name,
            parameters=frozenset(argument.arg for argument in _arguments(node.args)),
            names=frozenset(_bound_names(node.body)),
            outer=scope if scope.function else None,
        )
        self._parameters(node, name, scope)
        self._block(node.body, inner)

    def _parameters(self, node: Function, name: str, scope: _Scope) -> None:
        """A parameter is known by its place too, and gets its default."""
        arguments = node.args
        ordered = [*arguments.posonlyargs, *arguments.args]
        is_method = bool(scope.class_name) and ordered[:1] and ordered[0].arg in ("self", "cls")
        placed = ordered[1:] if is_method else ordered
        callee = scope.class_name if node.name == "__init__" and scope.class_name else name
        for place, argument in enumerate(placed):
            self._flow(f"P:{callee}:{place}", f"P:{name}:{argument.arg}", 0)
        if callee != name:
            for argument in _arguments(arguments):
                self._flow(f"P:{callee}:{argument.arg}", f"P:{name}:{argument.arg}", 0)
        defaults = [
            *zip(ordered[len(ordered) - len(arguments.defaults) :], arguments.defaults, strict=True),
            *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
        ]
        inner = _Scope(function=name, label=f"{scope.label}.{node.name}".lstrip("."), outer=scope)
        for argument, default in defaults:
            if default is not None:
                label = _Label(name=argument.arg, evidence=evidence_of_name(argument.arg))
                self._flow_all(self._value(default, inner, label), f"P:{name}:{argument.arg}", default.lineno)

    def _class(self, node: ast.ClassDef, scope: _Scope) -> None:
        for expression in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self._value(expression, scope)
        name = f"{scope.class_name or scope.function or self.module}.{node.name}"
        inner = _Scope(class_name=name, label=f"{scope.label}.{node.name}".lstrip("."))
        self._note_signature(node, inner)
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                field_name = statement.target.id  # of a dataclass or a model, which is made with it
                self._flow(f"P:{name}:{field_name}", f"G:{name}.{field_name}", 0)
        self._block(node.body, inner)

    def _note_signature(self, node: ast.ClassDef, scope: _Scope) -> None:
        """The docstring of a ``dspy.Signature`` is its instruction."""
        docstring = ast.get_docstring(node)
        bases = {self._resolved(dotted_name(base), scope) for base in node.bases}
        if docstring and "G:dspy.Signature" in bases and is_prompt(docstring, Evidence.SENT):
            label = _Label(name=node.name, evidence=Evidence.SENT, line=node.lineno)
            self._note(docstring, "dspy.Signature", node.lineno, label, scope)

    def _assign(self, targets: list[ast.expr], value: ast.expr, line: int, scope: _Scope) -> None:
        label = self._label_of(targets[0], line, scope)
        sources = self._value(value, scope, label)
        for target in targets:
            for name in _targets(target):
                node = self._resolved(dotted_name(name), scope)
                if node:
                    self._flow_all(sources, node, line)
            if isinstance(target, ast.Subscript):
                self._value(target.slice, scope)

    def _append(self, target: ast.expr, value: ast.expr, line: int, scope: _Scope) -> None:
        """What is added to a text that was found is a part of it, and no text of its own."""
        label = self._label_of(target, line, scope)
        if any((text.name, text.owner) == (label.name, scope.label) for text in self.texts):
            self._flow_all(self._quietly(value, scope), self._resolved(dotted_name(target), scope), line)
        else:
            self._assign([target], value, line, scope)

    def _label_of(self, target: ast.expr, line: int, scope: _Scope) -> _Label:
        match target:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                can_rebind = isinstance(target, ast.Name) and not scope.function
                return _Label(name=name, evidence=evidence_of_name(name), line=line, can_rebind=can_rebind)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)):
                named = _Label(name=name, evidence=evidence_of_name(name)).inside(f"[{_quoted(key)}]")
                return _Label(name=named.name, evidence=named.evidence, line=line, can_rebind=not scope.function)
        return _Label()

    # --- expressions ------------------------------------------------------------------------------------------------

    def _value(self, node: ast.expr, scope: _Scope, label: _Label = _Label()) -> set[str]:
        """The nodes that the value of ``node`` may come from; texts and flows inside it are noted on the way."""
        static = static_text(node)
        if static is not None:
            return self._text(node, static, scope, label)
        match node:
            case ast.Name() | ast.Attribute():
                return self._reference(node, scope)
            case ast.Call():
                return self._call(node, scope, label)
            case ast.Dict():
                return self._dict(node, scope, label)
            case ast.List() | ast.Tuple() | ast.Set():
                return self._sequence(node, scope, label)
            case ast.IfExp(body=body, orelse=orelse, test=test):
                self._value(test, scope)
                return self._value(body, scope, label.wrapped()) | self._value(orelse, scope, label.wrapped())
            case ast.BoolOp(values=values):
                return self._union(values, scope, label.wrapped())
            case ast.Await(value=value) | ast.Starred(value=value):
                return self._value(value, scope, label)
            case ast.NamedExpr(target=target, value=value):
                self._assign([target], value, node.lineno, scope)
                return self._value(target, scope)
        return self._union(_expressions(node), scope, label.inside())

    def _union(self, nodes: Iterable[ast.expr], scope: _Scope, label: _Label) -> set[str]:
        return {source for node in nodes for source in self._value(node, scope, label)}

    def _reference(self, node: ast.expr, scope: _Scope) -> set[str]:
        dotted = dotted_name(node)
        resolved = self._resolved(dotted, scope)
        if resolved:
            return {resolved}
        return self._value(node.value, scope) if isinstance(node, ast.Attribute) else set()

    def _text(self, node: ast.expr, static: StaticText, scope: _Scope, label: _Label) -> set[str]:
        sources = self._union(static.gaps, scope, _Label())
        if not static.has_gaps and _TEMPLATE_FILE.fullmatch(static.text):
            return sources | {f"F:{static.text.replace(chr(92), '/').lstrip('./')}"}
        is_evident = is_prompt(static.text, label.evidence)
        if is_evident or is_prompt(static.text, Evidence.SENT):
            kind = "f-string" if static.has_gaps else "string"
            sources.add(self._note(static.text, kind, node.lineno, label, scope, is_evident=is_evident))
        return sources

    def _note(self, text: str, kind: str, line: int, label: _Label, scope: _Scope, *, is_evident: bool = True) -> str:
        found = FoundText(
            line=label.line or line,
            name=label.name,
            owner=scope.label,
            kind=kind,
            words=count_words(text),
            placeholders=find_placeholders(text),
            is_evident=is_evident,
            has_own_name=label.can_rebind,
        )
        self.texts.append(found)
        return f"T:{len(self.texts) - 1}"

    def _dict(self, node: ast.Dict, scope: _Scope, label: _Label) -> set[str]:
        role = role_of(node)
        sources: set[str] = set()
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and static_text(key) is None:
                self._value(key, scope)
            word = key.value if isinstance(key, ast.Constant) else None
            if role is not None and word == "content":
                sources |= self._content(value, role, scope, label)
            elif role is None or word != "role":
                sources |= self._value(value, scope, _part(label, word))
        return sources

    def _content(self, value: ast.expr, role: str, scope: _Scope, label: _Label) -> set[str]:
        """What a message says: a prompt, unless it is the model's own part of a conversation."""
        if role not in ASKING_ROLES:
            return self._value(value, scope)
        return self._value(value, scope, _Label(name=label.name if label.line else "", evidence=Evidence.SENT))

    def _sequence(self, node: ast.List | ast.Tuple | ast.Set, scope: _Scope, label: _Label) -> set[str]:
        messages = [message_text(element) for element in node.elts]
        text = "\n".join(message or "" for message in messages)
        is_whole = bool(messages) and None not in messages and bool(label.name) and label.line is not None
        if is_whole and is_prompt(text, Evidence.SENT):
            return {self._note(text, "messages", node.lineno, label, scope)}
        if any(message is not None for message in messages):
            return self._union(node.elts, scope, label)
        whole = label if isinstance(node, ast.List) else replace(label, can_rebind=False)
        parts = (self._value(element, scope, _part(whole, place)) for place, element in enumerate(node.elts))
        return {source for part in parts for source in part}

    def _call(self, node: ast.Call, scope: _Scope, label: _Label) -> set[str]:
        called = dotted_name(node.func)
        resolved = self._resolved(called, scope)
        full = resolved.partition(":")[2] if resolved.startswith("G:") else called
        if _is_ours(resolved, "text_prompt"):
            return self._managed_text(node, scope)
        holder = template_class(full)
        if holder is not None:
            return self._template(node, holder, scope, label)
        keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
        sdk = sdk_of_call(full, keywords, self.mentions)
        if sdk is not None:
            self._value_of_receiver(node.func, scope)
            return self._send(node, sdk.sdk, scope, takes_positional=sdk.takes_positional)
        return self._plain_call(node, called, resolved, scope, label)

    def _value_of_receiver(self, function: ast.expr, scope: _Scope, label: _Label = _Label()) -> set[str]:
        return self._value(function.value, scope, label) if isinstance(function, ast.Attribute) else set()

    def _send(self, node: ast.Call, sdk: str, scope: _Scope, *, takes_positional: bool) -> set[str]:
        """What such a call is asked with goes to the model; its answer comes from nowhere that we know."""
        for argument in node.args:
            sources = self._value(argument, scope)
            if takes_positional:
                self._flow_all(sources, f"S:{sdk}", node.lineno)
        for keyword in node.keywords:
            sources = self._value(keyword.value, scope, _Label(evidence=evidence_of_name(keyword.arg or "")))
            if keyword.arg is None or is_payload(keyword.arg):
                self._flow_all(sources, f"S:{sdk}", node.lineno)
        return set()

    def _template(self, node: ast.Call, holder: str, scope: _Scope, label: _Label) -> set[str]:
        """A template class is one prompt, whatever it is made of; names inside it are sent by it."""
        arguments = [
            *node.args,
            *(keyword.value for keyword in node.keywords if keyword.arg in ("template", "messages", "content")),
        ]
        pieces = [piece for argument in arguments for piece in template_pieces(argument)]
        text = "\n".join(static.text for piece in pieces if (static := static_text(piece)) is not None)
        sources: set[str] = set()
        for expression in (*node.args, *(keyword.value for keyword in node.keywords)):
            sources |= {each for each in self._quietly(expression, scope) if not each.startswith("T:")}
        self._flow_all(sources, f"S:{template_sdk(self.mentions)}", node.lineno)
        if is_prompt(text, Evidence.SENT):
            named = _Label(name=label.name, evidence=Evidence.SENT, line=label.line)
            sources.add(self._note(text, holder, node.lineno, named, scope))
        return sources

    def _quietly(self, expression: ast.expr, scope: _Scope) -> set[str]:
        """The sources of ``expression`` without noting the texts in it a second time."""
        texts, flows = len(self.texts), len(self.flows)
        sources = self._value(expression, scope)
        gone = {f"T:{place}" for place in range(texts, len(self.texts))}
        del self.texts[texts:]
        self.flows[flows:] = [flow for flow in self.flows[flows:] if flow.source not in gone]
        return sources - gone

    def _managed_text(self, node: ast.Call, scope: _Scope) -> set[str]:
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        name = given.get("name", node.args[0] if node.args else None)
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            self.managed.append((name.value, node.lineno, "text_prompt"))
        for expression in (*node.args[1:], *(value for keyword, value in given.items() if keyword in ("text", "file"))):
            everything = self._value(expression, scope)
            self._flow_all(self._part_of_own_name(expression, scope) or everything, "M:", node.lineno)
        return set()

    def _part_of_own_name(self, node: ast.expr, scope: _Scope) -> set[str]:
        """The text that ``PROMPTS["reply"]`` names where this file writes it: the dict's others are not adopted."""
        if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)):
            return set()
        name = f"{dotted_name(node.value)}[{_quoted(node.slice.value)}]"
        places = enumerate(self.texts)
        return {f"T:{place}" for place, text in places if (text.name, text.owner) == (name, scope.label)}

    def _plain_call(self, node: ast.Call, called: str, resolved: str, scope: _Scope, label: _Label) -> set[str]:
        """A function of anybody's: it gets its arguments, and what it returns may come from them."""
        is_template = called.rpartition(".")[2] in _STRING_TEMPLATES
        url = next((sdk for argument in node.args if (sdk := endpoint_sdk(argument))), None)
        receiver = self._value_of_receiver(node.func, scope, label.wrapped() if called.startswith("?") else _Label())
        callee = resolved[2:] if resolved.startswith("G:") else ""
        is_known = bool(callee) and callee.partition(".")[0] not in sys.stdlib_module_names
        sources = set(receiver)
        for place, argument in enumerate(node.args):
            given = self._value(argument, scope, label.wrapped() if is_template else label.inside())
            self._hand_over(given, f"P:{callee}:{place}", node.lineno, is_known=is_known)
            sources |= given
        for keyword in node.keywords:
            own = _Label(name=label.name or keyword.arg or "", evidence=evidence_of_name(keyword.arg or ""))
            given = self._value(keyword.value, scope, own)
            self._hand_over(given, f"P:{callee}:{keyword.arg}", node.lineno, is_known=is_known and bool(keyword.arg))
            sources |= given
        if isinstance(node.func, ast.Attribute) and node.func.attr in _ADDING:
            holder = self._resolved(dotted_name(node.func.value), scope)
            self._flow_all(sources, holder, node.lineno)
        if url is not None:
            self._flow_all(sources, f"S:{url}", node.lineno)
        return sources | ({f"R:{callee}"} if is_known else set())

    def _hand_over(self, sources: set[str], parameter: str, line: int, *, is_known: bool) -> None:
        if is_known:
            self._flow_all(sources, parameter, line)

    # --- names ------------------------------------------------------------------------------------------------------

    def _resolved(self, dotted: str, scope: _Scope) -> str:
        """The node of a dotted name, ``""`` for one that nobody here binds."""
        head, _, rest = dotted.partition(".")
        if head in ("self", "cls") and scope.class_name:
            return f"G:{scope.class_name}.{rest}" if rest else ""
        around: _Scope | None = scope
        while around is not None:
            if head in around.parameters:
                return f"P:{around.function}:{head}"
            if around.function and head in around.names and head not in self.imports:
                return f"L:{around.function}:{head}"
            around = around.outer
        if scope.class_name and not scope.function and head not in self.own_names and head not in self.imports:
            return f"G:{scope.class_name}.{dotted}" if head and head != "?" else ""
        if head in self.own_names:
            return f"G:{self.module}.{dotted}"
        if head in self.imports:
            return f"G:{self.imports[head]}{'.' + rest if rest else ''}"
        return ""

    def _note_managed_function(self, node: Function, scope: _Scope) -> None:
        name = f"{self.stem}.{scope.label}.{node.name}".replace("..", ".")
        for decorator in node.decorator_list:
            for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                    name = str(keyword.value.value)
        line = min((decorator.lineno for decorator in node.decorator_list), default=node.lineno)
        self.managed.append((name, line, "@prompt"))

    def _flow_all(self, sources: Iterable[str], target: str, line: int) -> None:
        for source in sources:
            self._flow(source, target, line)

    def _flow(self, source: str, target: str, line: int) -> None:
        if source and target and source != target:
            self.flows.append(Flow(source=source, target=target, line=line))


# --- parts of the syntax ----------------------------------------------------------------------------------------------


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _is_ours(resolved: str, name: str) -> bool:
    return resolved.startswith(f"G:{_OURS}.") and resolved.endswith(f".{name}")


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """Each name that the import binds, and what it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
        return
    origin = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1])
        origin = ".".join(part for part in (base, origin) if part)
    for alias in node.names:
        yield alias.asname or alias.name, f"{origin}.{alias.name}"


def _bound_names(statements: Iterable[ast.stmt]) -> set[str]:
    """The names that a block binds, those of nested functions and classes left to them."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def _targets(target: ast.expr) -> Iterator[ast.expr]:
    """The names that an assignment binds or changes."""
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _targets(element)
    elif isinstance(target, ast.Subscript | ast.Starred):
        yield from _targets(target.value)
    else:
        yield target


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions right below ``node``, through comprehensions and the like."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, ast.comprehension | ast.keyword | ast.arguments):
            yield from _expressions(child)


def _part(label: _Label, key: object) -> _Label:
    """The label of one value of a dict or list."""
    if not isinstance(key, str | int) or not label.name:
        return _Label(evidence=evidence_of_name(key) if isinstance(key, str) else label.evidence)
    named = label.inside(f"[{_quoted(key)}]")
    return named if isinstance(key, int) or _KEY.fullmatch(key) else replace(named, can_rebind=False)


def _quoted(key: object) -> str:
    """A key as code writes it; one that is a text rather than a name is left out, because texts are not remembered."""
    if not isinstance(key, str):
        return str(key)
    return f'"{key}"' if _KEY.fullmatch(key) else "…"
