"""The morning digest."""

from bureau.llm import ask, chat
from bureau.texts import ChatPromptTemplate, template

HEADLINE = ChatPromptTemplate.from_template("Write a headline of at most eight words for this article.\n\n{article}")
SUMMARY = template("news/templates/summary.j2")
FACTS = template("news/templates/facts.j2")


def headline(article):
    return chat(HEADLINE.format_messages(article=article))


def summary(article, sentences):
    return ask(SUMMARY.render(article=article, sentences=sentences))


def facts(article):
    return ask(FACTS.render(article=article))
