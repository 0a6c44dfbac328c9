"""Invoices and reminders."""

from bureau.llm import ask, chat

EXPLAIN_INVOICE = [
    {"role": "system", "content": "You explain invoices to people who have never read one. Use no accounting terms."},
    {"role": "user", "content": "Explain this invoice line by line.\n\n{invoice}"},
]

DUNNING_PROMPT = """\
Write a payment reminder for the invoice {number}, which is {days} days overdue.
The tone is {tone}. Mention the amount of {amount:.2f} EUR exactly once.
"""

OVERDUE_EMAIL = (
    "Dear {name},\n\nyour invoice {number} is overdue. Please settle it within fourteen days.\n\nBest wishes"
)


def explain(invoice):
    return chat([{**message, "content": message["content"].format(invoice=invoice)} for message in EXPLAIN_INVOICE])


def remind(number, days, tone, amount):
    return ask(DUNNING_PROMPT.format(number=number, days=days, tone=tone, amount=amount))


def email(name, number):
    """A letter of our own, without any model."""
    return OVERDUE_EMAIL.format(name=name, number=number)
