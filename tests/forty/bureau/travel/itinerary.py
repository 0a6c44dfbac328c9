"""Trips, day by day."""

from bureau.llm import ask
from bureau.texts import template

PLAN = template("travel/templates/plan.j2")
PACKING = template("travel/templates/packing.j2")

VISA_PROMPT = (
    "Say whether a citizen of {citizenship} needs a visa for {country}. "
    "If you are not sure, say so, and name the office to ask."
)


def plan(city, days, wishes):
    return ask(PLAN.render(city=city, days=days, wishes=wishes))


def pack(country, month):
    return ask(PACKING.render(country=country, month=month))


def visa(citizenship, country):
    return ask(VISA_PROMPT.format(citizenship=citizenship, country=country))
