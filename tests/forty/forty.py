"""The forty prompts of the bureau, as a person who reads the project would list them."""

from typing import Any, NamedTuple


class Existing(NamedTuple):
    """One prompt: how the code calls it (``""`` without a name), where it stands, what it is, and who sends it."""

    name: str
    file: str
    line: int
    kind: str
    sender: str
    inputs: dict[str, Any]


FORTY = [
    Existing(
        "SYSTEM", "bureau/support.py", 5, "string", "bureau.support:advise", {"question": "Does it work in the rain?"}
    ),
    Existing("REPLY", "bureau/support.py", 9, "string", "bureau.support:reply", {"ticket": "My feeder is silent."}),
    Existing("SIGN_OFF", "bureau/support.py", 11, "string", "bureau.support:sign_off", {"customer": "Ms Lark"}),
    Existing(
        "EXPLAIN_INVOICE", "bureau/billing.py", 5, "messages", "bureau.billing:explain", {"invoice": "1 x feeder 49.00"}
    ),
    Existing(
        "DUNNING_PROMPT",
        "bureau/billing.py",
        10,
        "string",
        "bureau.billing:remind",
        {"number": "R-7", "days": 9, "tone": "calm", "amount": 12.5},
    ),
    Existing(
        "SIMPLIFY",
        "bureau/legal/clauses.py",
        6,
        "ChatPromptTemplate",
        "bureau.legal.clauses:simplify",
        {"clause": "The lessee shall desist."},
    ),
    Existing(
        "RISKS",
        "bureau/legal/clauses.py",
        8,
        "ChatPromptTemplate",
        "bureau.legal.clauses:risks",
        {"clause": "All sales are final.", "party": "buyer"},
    ),
    Existing(
        "",
        "bureau/legal/templates/review.j2",
        1,
        "file",
        "bureau.legal.clauses:review",
        {"contract": "One clause.", "jurisdiction": "Malta"},
    ),
    Existing(
        "",
        "bureau/legal/templates/redline.jinja2",
        1,
        "file",
        "bureau.legal.clauses:redline",
        {"before": "May.", "after": "Must."},
    ),
    Existing("JOB_AD", "bureau/people.py", 7, "string", "bureau.people:advertise", {"title": "gardener"}),
    Existing(
        "FEEDBACK_PROMPT",
        "bureau/people.py",
        12,
        "string",
        "bureau.people:feedback",
        {"notes": "late twice, kind always"},
    ),
    Existing(
        "",
        "bureau/people.py",
        29,
        "f-string",
        "bureau.people:screen",
        {"resume": "Ten years of pruning.", "role": "gardener"},
    ),
    Existing(
        'PROMPTS["tagline"]', "bureau/marketing.py", 6, "string", "bureau.marketing:tagline", {"product": "Perch"}
    ),
    Existing(
        'PROMPTS["tweet"]',
        "bureau/marketing.py",
        7,
        "string",
        "bureau.marketing:tweet",
        {"product": "Perch", "audience": "birds"},
    ),
    Existing('PROMPTS["press"]', "bureau/marketing.py", 8, "string", "bureau.marketing:press", {"product": "Perch"}),
    Existing(
        "SUBSTITUTE",
        "bureau/kitchen.py",
        5,
        "messages",
        "bureau.kitchen:substitute",
        {"ingredient": "egg", "dish": "cake"},
    ),
    Existing(
        "prompt",
        "bureau/kitchen.py",
        17,
        "f-string",
        "bureau.kitchen:recipe",
        {"leftovers": "rice, peas", "minutes": 20},
    ),
    Existing(
        "",
        "bureau/travel/templates/plan.j2",
        1,
        "file",
        "bureau.travel.itinerary:plan",
        {"city": "Lisbon", "days": 2, "wishes": ["trams", "tiles"]},
    ),
    Existing(
        "",
        "bureau/travel/templates/packing.j2",
        1,
        "file",
        "bureau.travel.itinerary:pack",
        {"country": "Norway", "month": "May"},
    ),
    Existing(
        "VISA_PROMPT",
        "bureau/travel/itinerary.py",
        9,
        "string",
        "bureau.travel.itinerary:visa",
        {"citizenship": "Chile", "country": "Japan"},
    ),
    Existing("", "bureau/prompts/leaflet.txt", 1, "file", "bureau.health:leaflet", {"substance": "zinc", "age": 70}),
    Existing("", "bureau/prompts/triage.txt", 1, "file", "bureau.health:triage", {"complaint": "a cough"}),
    Existing(
        "PROMPT", "bureau/health.py", 11, "string", "bureau.health:Reminders.write", {"medicine": "zinc", "times": 2}
    ),
    Existing("REVIEW_MESSAGES", "bureau/coding.py", 5, "messages", "bureau.coding:review", {"diff": "- a\n+ b"}),
    Existing("COMMIT_PROMPT", "bureau/coding.py", 10, "string", "bureau.coding:commit", {"diff": "- a\n+ b"}),
    Existing(
        "text", "bureau/coding.py", 27, "f-string", "bureau.coding:explain", {"error": "KeyError", "code": "{}['a']"}
    ),
    Existing("QUIZ", "bureau/school.py", 5, "string", "bureau.school:quiz", {"count": 3, "topic": "rivers", "age": 12}),
    Existing("GRADE_SYSTEM", "bureau/school.py", 7, "string", "bureau.school:grade", {"essay": "Rivers flow."}),
    Existing("HINT", "bureau/school.py", 9, "messages", "bureau.school:hint", {"exercise": "7 x 8"}),
    Existing(
        "HEADLINE",
        "bureau/news/digest.py",
        6,
        "ChatPromptTemplate",
        "bureau.news.digest:headline",
        {"article": "It rained in Bath."},
    ),
    Existing(
        "",
        "bureau/news/templates/summary.j2",
        1,
        "file",
        "bureau.news.digest:summary",
        {"article": "It rained in Bath.", "sentences": 1},
    ),
    Existing(
        "", "bureau/news/templates/facts.j2", 1, "file", "bureau.news.digest:facts", {"article": "It rained in Bath."}
    ),
    Existing("LISTING", "bureau/homes.py", 6, "string", "bureau.homes:listing", {"facts": "two rooms, a balcony"}),
    Existing(
        "VIEWING",
        "bureau/homes.py",
        8,
        "ChatPromptTemplate",
        "bureau.homes:viewing",
        {"address": "Elm Row 3", "day": "Friday"},
    ),
    Existing(
        "DELAY_TEMPLATE",
        "bureau/freight.py",
        9,
        "string",
        "bureau.freight:delay",
        {"customer": "Mr Wren", "parcel": "P-9", "days": 3},
    ),
    Existing("", "bureau/freight.py", 22, "string", "bureau.freight:customs", {"goods": "a bird feeder with a camera"}),
    Existing(
        "NARRATOR", "bureau/games.py", 5, "string", "bureau.games:narrate", {"hero": "Ada", "scene": "a locked door"}
    ),
    Existing("", "bureau/games.py", 13, "f-string", "bureau.games:riddle", {"answer": "snow"}),
    Existing(
        "KEYWORDS", "bureau/research.py", 5, "string", "bureau.research:keywords", {"abstract": "We count birds."}
    ),
    Existing("system", "bureau/research.py", 12, "string", "bureau.research:answer", {"question": "How many birds?"}),
]
