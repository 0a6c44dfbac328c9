"""Words that sell."""

from bureau.llm import ask

PROMPTS = {
    "tagline": "Write a tagline of at most seven words for {product}. Do not use an exclamation mark.",
    "tweet": "Write a post of at most 200 characters that announces {product} to people who know {audience} well.",
    "press": "Write the first paragraph of a press release about {product}. Answer who, what, when and where.",
}


def tagline(product):
    return ask(PROMPTS["tagline"].format(product=product))


def tweet(product, audience):
    return ask(PROMPTS["tweet"].format(product=product, audience=audience))


def press(product):
    return ask(PROMPTS["press"].format(product=product))
