"""Leaflets for patients. No diagnoses."""

from bureau.llm import ask
from bureau.texts import text

LEAFLET = text("prompts/leaflet.txt")
TRIAGE = text("prompts/triage.txt")


class Reminders:
    PROMPT = "Write a reminder to take {medicine} {times} times a day. Use simple words, and give no medical advice."

    def write(self, medicine, times):
        return ask(self.PROMPT.format(medicine=medicine, times=times))


def leaflet(substance, age):
    return ask(LEAFLET.format(substance=substance, age=age))


def triage(complaint):
    return ask(TRIAGE.format(complaint=complaint))
