"""Exercises and marks."""

from bureau.llm import ask, chat

QUIZ = "Write {count} questions on {topic} for pupils of {age}. Give the answers at the end, each on a line of its own."

GRADE_SYSTEM = "You grade essays from 1 to 6. Reply with the number alone, and never with half a mark."

HINT = [
    {"role": "system", "content": "You are a patient tutor. Give a hint and never the solution."},
    {"role": "user", "content": "I am stuck with this exercise: {exercise}"},
]


def quiz(count, topic, age):
    return ask(QUIZ.format(count=count, topic=topic, age=age))


def grade(essay):
    return ask(essay, system=GRADE_SYSTEM)


def hint(exercise):
    return chat([{**message, "content": message["content"].format(exercise=exercise)} for message in HINT])
