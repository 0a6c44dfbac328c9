"""Flats and houses."""

from bureau.llm import ask, chat
from bureau.texts import ChatPromptTemplate

LISTING = "Describe this flat in eighty words for a portal: {facts}. Do not call anything a dream or unique."

VIEWING = ChatPromptTemplate.from_messages(
    [
        ("system", "You write short letters to landlords, friendly and without flattery."),
        ("user", "Ask for a viewing of {address} on {day}."),
    ]
)


def listing(facts):
    return ask(LISTING.format(facts=facts))


def viewing(address, day):
    return chat(VIEWING.format_messages(address=address, day=day))
