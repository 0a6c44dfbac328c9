"""Papers."""

from bureau.llm import ask

KEYWORDS = "Extract at most five keywords from this abstract, separated by commas: {abstract}"


def keywords(abstract):
    return ask(KEYWORDS.format(abstract=abstract))


def answer(question, system="You answer questions about one paper. Quote it, or say that it does not tell."):
    return ask(question, system=system)
