"""Recipes."""

from bureau.llm import ask, chat

SUBSTITUTE = [
    {"role": "system", "content": "You are a cook who knows allergies well. Name exactly one substitute."},
    {"role": "user", "content": "What can replace {ingredient} in {dish}?"},
]


def substitute(ingredient, dish):
    filled = [{**one, "content": one["content"].format(ingredient=ingredient, dish=dish)} for one in SUBSTITUTE]
    return chat(filled)


def recipe(leftovers, minutes):
    prompt = f"""Suggest one dish from these leftovers: {leftovers}.
It must be ready in {minutes} minutes. List the steps, each in one line."""
    return ask(prompt)
