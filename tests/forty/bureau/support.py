"""Answers to customers."""

from bureau.llm import ask

SYSTEM = """You are a support agent for a shop that sells bird feeders with cameras.
Answer in at most three sentences.
Never promise a refund; offer to pass the ticket on instead."""

REPLY = "Answer this customer politely and in their own language.\n\nTicket: {ticket}"

SIGN_OFF = (
    "Write one friendly closing line for an email to {customer}. "
    "Do not repeat anything from the email, "
    "and leave out the name of the company."
)


def reply(ticket):
    return ask(REPLY.format(ticket=ticket), system=SYSTEM)


def advise(question):
    """Anything that is not a ticket."""
    return ask(question, SYSTEM)


def sign_off(customer):
    return ask(SIGN_OFF.format(customer=customer))
