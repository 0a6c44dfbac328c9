"""Texts in files, and a chat template in the manner of the well-known chain library."""

from pathlib import Path


def template(name):
    import jinja2

    return jinja2.Template((Path(__file__).parent / name).read_text(encoding="utf-8"))


def text(name):
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


class ChatPromptTemplate:
    def __init__(self, messages):
        self.messages = messages

    @classmethod
    def from_template(cls, text):
        return cls([("user", text)])

    @classmethod
    def from_messages(cls, messages):
        return cls(messages)

    def format_messages(self, **inputs):
        return [{"role": role, "content": text.format(**inputs)} for role, text in self.messages]
