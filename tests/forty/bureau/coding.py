"""Help for programmers."""

from bureau.llm import ask, chat

REVIEW_MESSAGES = [
    {"role": "system", "content": "You review code. Be concise; report defects only, with line numbers."},
    {"role": "user", "content": "Review this diff:\n\n{diff}"},
]

COMMIT_PROMPT = """Write a commit message for the diff below.
The first line has at most 60 characters and ends without a full stop.

{diff}"""

SLOW_QUERIES = "SELECT query, mean_time FROM pg_stat_statements WHERE calls > 100 ORDER BY mean_time DESC LIMIT 20"


def review(diff):
    return chat([{**message, "content": message["content"].format(diff=diff)} for message in REVIEW_MESSAGES])


def commit(diff):
    return ask(COMMIT_PROMPT.format(diff=diff))


def explain(error, code):
    text = f"Explain the error {error} to a beginner.\nThe code:\n{code}\nEnd with the line to change."
    return ask(text)
