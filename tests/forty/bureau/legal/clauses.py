"""Contracts, clause by clause."""

from bureau.llm import chat
from bureau.texts import ChatPromptTemplate, template

SIMPLIFY = ChatPromptTemplate.from_template("Rewrite this clause in plain English, keeping every duty.\n\n{clause}")

RISKS = ChatPromptTemplate.from_messages(
    [
        ("system", "You are a cautious contract lawyer. List risks only, one in each line."),
        ("user", "Which risks does the {party} take with this clause?\n\n{clause}"),
    ]
)

REVIEW = template("legal/templates/review.j2")
REDLINE = template("legal/templates/redline.jinja2")


def simplify(clause):
    return chat(SIMPLIFY.format_messages(clause=clause))


def risks(clause, party):
    return chat(RISKS.format_messages(clause=clause, party=party))


def review(contract, jurisdiction):
    return chat([{"role": "user", "content": REVIEW.render(contract=contract, jurisdiction=jurisdiction)}])


def redline(before, after):
    return chat([{"role": "user", "content": REDLINE.render(before=before, after=after)}])
