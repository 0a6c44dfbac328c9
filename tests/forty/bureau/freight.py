"""Parcels on their way."""

import logging

from bureau.llm import ask, chat

log = logging.getLogger(__name__)

DELAY_TEMPLATE = "Tell {customer} that the parcel {parcel} arrives {days} days late. Apologise once, give no reason."


def delay(customer, parcel, days):
    log.info("You will find the text about the parcel %s in the outbox; answer questions about it there", parcel)
    return ask(DELAY_TEMPLATE.format(customer=customer, parcel=parcel, days=days))


def customs(goods):
    return chat(
        [
            {
                "role": "system",
                "content": "You classify goods for customs. Reply with the six digits of the HS code only.",
            },
            {"role": "user", "content": goods},
        ]
    )
