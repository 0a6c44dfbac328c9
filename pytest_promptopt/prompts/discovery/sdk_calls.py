"""Which calls send a text to a model, and which classes hold a prompt: the vocabulary of the clients people use.

Known by how the call is written, because nothing is imported: ``client.chat.completions.create`` is OpenAI's whatever
``client`` is. A spelling that others use too counts only in a file that speaks of the SDK, or with its own keywords.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_PAYLOAD = frozenset(
    {
        *("messages", "message", "input", "instructions", "prompt", "template", "content", "contents", "config"),
        *("system", "system_prompt", "system_instruction", "preamble", "preface"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkCall:
    """One spelling: the call's dotted end, whose it is, and what has to be there for it to count.

    ``mention`` is a word that the file must contain; with ``takes_positional`` the text may stand first without a
    keyword.
    """

    end: str
    sdk: str
    mention: str = ""
    takes_positional: bool = False


_CALLS = (
    SdkCall(end="chat.completions.create", sdk="openai"),
    SdkCall(end="chat.completions.parse", sdk="openai"),
    SdkCall(end="chat.completions.stream", sdk="openai"),
    SdkCall(end="ChatCompletion.create", sdk="openai"),
    SdkCall(end="ChatCompletion.acreate", sdk="openai"),
    SdkCall(end="responses.create", sdk="openai"),
    SdkCall(end="responses.parse", sdk="openai"),
    SdkCall(end="responses.stream", sdk="openai"),
    SdkCall(end="completions.create", sdk="openai"),
    SdkCall(end="messages.create", sdk="anthropic"),
    SdkCall(end="messages.stream", sdk="anthropic"),
    SdkCall(end="completion", sdk="litellm", mention="litellm", takes_positional=True),
    SdkCall(end="acompletion", sdk="litellm", mention="litellm", takes_positional=True),
    SdkCall(end="generate_content", sdk="google", takes_positional=True),
    SdkCall(end="generate_content_async", sdk="google", takes_positional=True),
    SdkCall(end="generate_content_stream", sdk="google", takes_positional=True),
    SdkCall(end="GenerativeModel", sdk="google"),
    SdkCall(end="GenerateContentConfig", sdk="google"),
    SdkCall(end="chat.complete", sdk="mistral"),
    SdkCall(end="chat.complete_async", sdk="mistral"),
    SdkCall(end="chat.stream", sdk="mistral", mention="mistral"),
    SdkCall(end="chat", sdk="ollama", mention="ollama"),
    SdkCall(end="generate", sdk="ollama", mention="ollama"),
    SdkCall(end="chat", sdk="cohere", mention="cohere"),
    SdkCall(end="chat_stream", sdk="cohere", mention="cohere"),
    SdkCall(end="converse", sdk="bedrock"),
    SdkCall(end="converse_stream", sdk="bedrock"),
    SdkCall(end="Agent", sdk="agent"),
    SdkCall(end="invoke", sdk="langchain", mention="langchain", takes_positional=True),
    SdkCall(end="ainvoke", sdk="langchain", mention="langchain", takes_positional=True),
    SdkCall(end="predict", sdk="llama_index", mention="llama_index", takes_positional=True),
    SdkCall(end="complete", sdk="llama_index", mention="llama_index", takes_positional=True),
)

_TEMPLATES = re.compile(r"(?:^|\.)(\w*PromptTemplate|SystemMessage|HumanMessage)(?:\.from_(?:messages|template))?$")


def sdk_of_call(called: str, keywords: Collection[str], mentions: Collection[str]) -> SdkCall | None:
    """Whose call ``called`` (dotted) with ``keywords`` is, in a file with ``mentions``; ``None`` for any other."""
    for call in _CALLS:
        if called == call.end or called.endswith(f".{call.end}"):
            has_payload = call.takes_positional or bool(_PAYLOAD.intersection(keywords))
            if has_payload and (not call.mention or call.mention in mentions):
                return call
    return None


_ENDPOINTS = (("chat/completions", "openai"), ("/v1/responses", "openai"), ("/v1/messages", "anthropic"))
_MORE_ENDPOINTS = (("/api/chat", "ollama"), ("/api/generate", "ollama"), (":generateContent", "google"))


def sdk_of_url(url: str) -> str | None:
    """Whose endpoint ``url`` is, for those who speak the protocol without any SDK."""
    return next((sdk for part, sdk in (*_ENDPOINTS, *_MORE_ENDPOINTS) if part in url), None)


def is_payload(keyword: str) -> bool:
    """Whether the keyword of such a call carries text to the model."""
    return keyword in _PAYLOAD


def template_class(called: str) -> str | None:
    """The class whose construction ``called`` is, where it is one that holds a prompt."""
    found = _TEMPLATES.search(called)
    return None if found is None else found[1]


def template_sdk(mentions: Collection[str]) -> str:
    """Whose template classes a file uses that has ``mentions``."""
    return "llama_index" if "llama_index" in mentions and "langchain" not in mentions else "langchain"


MENTIONS = ("litellm", "mistral", "ollama", "cohere", "langchain", "llama_index")
"""Words in a file that decide whose a spelling is."""
