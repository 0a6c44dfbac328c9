"""Stories to play."""

from bureau.llm import ask

NARRATOR = "You are the narrator of a text adventure. Describe what {hero} sees in two sentences, then ask what to do."


def narrate(hero, scene):
    return ask(scene, system=NARRATOR.format(hero=hero))


def riddle(answer):
    return ask(f"Write a riddle in four lines whose answer is {answer}. Do not use the word {answer} itself.")
