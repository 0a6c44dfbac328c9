"""The one way to the model: OpenAI's chat protocol over plain HTTP."""

import http.client
import json
import os
from urllib.parse import urlsplit


def chat(messages, temperature=0.0):
    base = urlsplit(os.environ["BUREAU_BASE_URL"])
    connection = http.client.HTTPConnection(base.hostname, base.port, timeout=30)
    body = {"model": os.environ.get("BUREAU_MODEL", "gpt-4.1-mini"), "messages": messages, "temperature": temperature}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('BUREAU_KEY', '')}"}
    try:
        connection.request("POST", f"{base.path}/chat/completions", json.dumps(body).encode(), headers)
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer["choices"][0]["message"]["content"]


def ask(text, system=None):
    opening = [{"role": "system", "content": str(system)}] if system else []
    return chat([*opening, {"role": "user", "content": str(text)}])
