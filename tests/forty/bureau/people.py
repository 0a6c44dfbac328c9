"""Hiring, and feedback among colleagues."""

from textwrap import dedent

from bureau.llm import ask

JOB_AD = dedent("""
    Write a job advertisement for a {title}.
    Say what the person will do in the first month, and do not use the words "rockstar", "ninja" or "guru".
""")

FEEDBACK_PROMPT = """Turn these notes into feedback that a colleague can act on.

Notes: {notes}

Start with what went well. Do not guess at motives."""


def advertise(title):
    return ask(JOB_AD.strip().format(title=title))


def feedback(notes):
    return ask(FEEDBACK_PROMPT.format(notes=notes))


def screen(resume, role):
    return ask(
        f"Decide whether this application fits the role of {role}. "
        f"Answer with yes, no or unsure, and one sentence that gives the reason.\n\n{resume}"
    )
