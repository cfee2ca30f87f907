"""Questions and answers about the Vale of Tessary, in English."""

from .common import (
    a,
    assistant,
    cap,
    casual,
    chat,
    listing,
    maybe_system,
    plain,
    system,
    user,
)
from .vale import (
    ANIMALS,
    CRAFTS,
    DISTANCE,
    NEIGHBOURS,
    PEOPLE,
    RIVERS,
    TOWNS,
    residents,
)

# Each fact: (questions, answers, what an answer must contain). In a follow-up the pronoun stands
# for the name, so the questions are written with {x} and the answers with {x} and {X}.


def person_facts(p):
    """relation -> (questions, answers, expected strings) for one person."""
    he, his = p.he, p.his
    craft_does = CRAFTS[p.craft][0]
    born = a(p.craft)
    return {
        "town": (
            ["Where does {x} live?", "In which town does {x} live?", "What town is {xs} home in?",
             "Where can I find {x}?", "Which town does {x} live in?", "Where is {x} from?",
             "Where is {xs} house?"],
            [f"{{X}} lives in {p.town}.", f"{{X}} lives in the town of {p.town}."],
            [p.town],
        ),
        "craft": (
            ["What does {x} do?", "What is {xs} job?", "What work does {x} do?",
             "What is {xs} craft?", "What does {x} do for a living?", "What is {xs} trade?"],
            [f"{{X}} is {born}. {cap(he)} {craft_does}.", f"{{X}} is {born} and {craft_does}."],
            [p.craft],
        ),
        "age": (
            ["How old is {x}?", "What is {xs} age?", "What age is {x}?"],
            [f"{{X}} is {p.age} years old."],
            [str(p.age)],
        ),
        "pet": (
            ["What pet does {x} have?", "Does {x} have a pet?", "What animal does {x} keep?",
             "Which animal lives with {x}?", "What kind of pet does {x} own?"],
            [f"{{X}} has {a(p.pet)}.", f"{{X}} keeps {a(p.pet)}."],
            [p.pet],
        ),
        "friend": (
            ["Who is {xs} best friend?", "Who is {xs} closest friend?",
             "What is the name of {xs} best friend?", "Who is friends with {x}?"],
            [f"{{XS}} best friend is {p.friend}.",
             f"{{XS}} best friend is {p.friend}, the {PEOPLE[p.friend].craft} from "
             f"{PEOPLE[p.friend].town}."],
            [p.friend],
        ),
        "food": (
            ["What does {x} like to eat?", "What is {xs} favourite food?",
             "What food does {x} like best?", "Which dish does {x} love?"],
            [f"{{XS}} favourite food is {p.food}.", f"{{X}} likes {p.food} best of all."],
            [p.food],
        ),
        "who": (
            ["Who is {x}?", "Tell me about {x}.", "What do you know about {x}?",
             "What can you tell me about {x}?"],
            [f"{{X}} is {a(p.craft)} from {p.town}. {cap(he)} is {p.age} years old and has "
             f"{a(p.pet)}.",
             f"{{X}} is {p.age} years old and lives in {p.town}. {cap(he)} is {born}, and {his} "
             f"best friend is {p.friend}.",
             f"{{X}} lives in {p.town} and {craft_does}. {cap(he)} has {a(p.pet)} and likes "
             f"{p.food}."],
            [p.town],
        ),
    }  # fmt: skip


def town_facts(t):
    """relation -> (questions, answers, expected strings) for one town."""
    near = listing(NEIGHBOURS[t.name])
    people = listing(residents(t.name))
    return {
        "river": (
            ["Which river flows past {x}?", "What river is {x} on?", "Which river is near {x}?",
             "What is the name of the river at {x}?"],
            [f"{{X}} lies on the river {t.river}.", f"The river {t.river} flows past {{x}}."],
            [t.river],
        ),
        "land": (
            ["What is the land around {x} like?", "What does the country around {x} look like?",
             "What kind of landscape is there around {x}?"],
            [f"{{X}} lies among {t.landscape}." if t.landscape.endswith("s")
             else f"{{X}} lies by {t.landscape}."],
            [t.landscape],
        ),
        "known": (
            ["What is {x} known for?", "What is {x} famous for?", "Why is {x} famous?",
             "What can I see in {x}?", "Why should I visit {x}?"],
            [f"{{X}} is known for {t.known_for}.", f"{{X}} is famous for {t.known_for}."],
            [t.known_for],
        ),
        "festival": (
            ["Which festival is held in {x}?", "What festival does {x} have?",
             "What do people celebrate in {x}?", "When is the festival in {x}?"],
            [f"{{X}} celebrates the {t.festival} in {t.month_name}.",
             f"The festival of {{x}} is the {t.festival}, held in {t.month_name}."],
            [t.festival, t.month_name],
        ),
        "founded": (
            ["When was {x} founded?", "How old is {x}?", "In what year was {x} built?",
             "In which year was {x} founded?"],
            [f"{{X}} was founded in the year {t.founded}."],
            [str(t.founded)],
        ),
        "people": (
            ["How many people live in {x}?", "How big is {x}?", "What is the population of {x}?"],
            [f"About {t.people} people live in {{x}}.", f"{{X}} has about {t.people} people."],
            [str(t.people)],
        ),
        "mayor": (
            ["Who is the mayor of {x}?", "Who leads {x}?", "What is the name of the mayor of {x}?"],
            [f"The mayor of {{x}} is {t.mayor}.",
             f"The mayor of {{x}} is {t.mayor}, the {PEOPLE[t.mayor].craft}."],
            [t.mayor],
        ),
        "residents": (
            ["Who lives in {x}?", "Which people live in {x}?", "Whom do you know in {x}?",
             "Who is from {x}?"],
            [f"I know three people in {{x}}: {people}.", f"{cap(people)} live in {{x}}."],
            residents(t.name),
        ),
        "near": (
            ["Which towns are near {x}?", "Where do the roads from {x} lead?",
             "Which towns are next to {x}?", "What are the neighbours of {x}?"],
            [f"Roads lead from {{x}} to {near}."],
            list(NEIGHBOURS[t.name]),
        ),
        "about": (
            ["Tell me about {x}.", "What is {x}?", "What do you know about {x}?",
             "What can you tell me about {x}?", "What kind of place is {x}?"],
            [f"{{X}} is a town on the river {t.river}. It is known for {t.known_for}, and about "
             f"{t.people} people live there.",
             f"{{X}} is a town with about {t.people} people. It was founded in {t.founded} and is "
             f"famous for {t.known_for}.",
             f"{{X}} is a town in the Vale of Tessary. Every {t.month_name} it celebrates the "
             f"{t.festival}."],
            [],
        ),
    }  # fmt: skip


def _fill(text, name, pronouns=None):
    """Puts a name, or the pronouns (it/its, he/his), into a question or an answer."""
    x, xs = (name, name + "'s") if pronouns is None else pronouns
    out = text.replace("{xs}", xs).replace("{x}", x)
    return out.replace("{XS}", cap(xs)).replace("{X}", cap(x))


BRIEF = [
    "Answer in one word.",
    "Answer with one word only.",
    "Reply with just the answer.",
    "Give only the answer, nothing else.",
]
_BRIEF_RELATIONS = {"town", "craft", "age", "friend", "food", "pet", "river", "mayor", "founded"}


def _one_fact(r):
    if r.random() < 0.55:
        thing = r.choice(list(PEOPLE.values()))
        facts = person_facts(thing)
    else:
        thing = r.choice(list(TOWNS.values()))
        facts = town_facts(thing)
    relation = r.choice(list(facts))
    questions, answers, expect = facts[relation]
    question = _fill(r.choice(questions), thing.name)
    if relation in _BRIEF_RELATIONS and r.random() < 0.08:
        word = cap(expect[0]) + "."
        if r.random() < 0.5:
            messages = [system(r.choice(BRIEF)), user(casual(r, question)), assistant(word)]
        else:
            messages = [user(f"{question} {r.choice(BRIEF)}"), assistant(word)]
        return chat("world", messages, key="world|brief|" + question, expect=expect)
    answer = _fill(r.choice(answers), thing.name)
    messages = [user(casual(r, question)), assistant(answer)]
    return chat("world", maybe_system(r, messages), key="world|" + question, expect=expect)


def _follow_ups(r):
    """Several questions about one thing; the later ones say he, she or it."""
    if r.random() < 0.65:
        thing = r.choice(list(PEOPLE.values()))
        facts = person_facts(thing)
        asked = (thing.he, thing.his)
    else:
        thing = r.choice(list(TOWNS.values()))
        facts = town_facts(thing)
        asked = ("it", "its")
    relations = r.sample(list(facts), r.randint(2, 4))
    messages = []
    expect = []
    for i, relation in enumerate(relations):
        questions, answers, expect = facts[relation]
        question, answer = r.choice(questions), r.choice(answers)
        if i == 0:
            question, answer = _fill(question, thing.name), _fill(answer, thing.name)
            key = "world|" + question
        else:
            for before in ("about {x}", "find {x}", "with {x}"):
                if before in question and asked[0] in ("he", "she"):
                    question = question.replace("{x}", thing.him if asked[0] == "she" else "him")
            question = _fill(question, thing.name, asked)
            if r.random() < 0.5:
                question = r.choice(["And ", "Then ", "OK, and ", "Thanks! And "]) + (
                    question[0].lower() + question[1:]
                )
            answer = _fill(answer, thing.name, asked if r.random() < 0.5 else None)
            key += "|" + relation
        messages += [user(casual(r, question)), assistant(answer)]
    return chat("world", maybe_system(r, messages), key=key, expect=expect)


def _passed_on(r):
    """The answer names someone or some place, and the next question is about that."""
    p = r.choice(list(PEOPLE.values()))
    kind = r.choice(["mayor", "friend", "craft", "home", "home"])
    if kind == "home":
        town = TOWNS[p.town]
        first = r.choice(person_facts(p)["town"][0])
        told = f"{p.name} lives in {town.name}."
        relation = r.choice(["river", "known", "festival", "people", "mayor", "others"])
        if relation == "others":
            others = [n for n in residents(town.name) if n != p.name]
            question = r.choice(["Who else lives there?", "And who else lives there?"])
            answer, expect = f"{listing(others)} live in {town.name} too.", others
        else:
            questions, answers, expect = town_facts(town)[relation]
            x = r.choice([("it", "its"), ("that town", "that town's")])
            question, answer = _fill(r.choice(questions), None, x), r.choice(answers)
            answer = _fill(answer, town.name)
    else:
        if kind == "mayor":
            town = TOWNS[p.town]
            p = PEOPLE[town.mayor]
            first, told = (
                f"Who is the mayor of {town.name}?",
                f"The mayor of {town.name} is {p.name}.",
            )
        elif kind == "friend":
            first = r.choice(person_facts(p)["friend"][0])
            first, told = _fill(first, p.name), f"{p.name}'s best friend is {p.friend}."
            p = PEOPLE[p.friend]
        else:
            first = f"Who is the {p.craft} of {p.town}?"
            told = f"The {p.craft} of {p.town} is {p.name}."
        relation = r.choice(["town", "craft", "age", "pet", "friend", "food"])
        questions, answers, expect = person_facts(p)[relation]
        question = r.choice([q for q in questions if " {x}" not in q[-6:]] or questions)
        for before in ("find {x}", "with {x}"):
            question = question.replace(
                before, before.replace("{x}", p.him if p.he == "she" else "him")
            )
        question = _fill(question, None, (p.he, p.his))
        answer = _fill(r.choice(answers), p.name, (p.he, p.his) if r.random() < 0.25 else None)
    messages = [user(casual(r, _fill(first, p.name))), assistant(told)]
    if r.random() < 0.4:
        question = r.choice(["And ", "OK, and ", "Thanks! "]) + question[0].lower() + question[1:]
    messages += [user(casual(r, question)), assistant(answer)]
    key = f"world|passed|{messages[0]['content']}|{relation}"
    return chat("world", maybe_system(r, messages), key=key, expect=expect)


def _switch(r):
    """'And Wren?' after a question about someone else."""
    one, two = r.sample(list(PEOPLE.values()), 2)
    relation = r.choice(["town", "craft", "age", "pet", "friend", "food"])
    messages = []
    for p, ask in (
        (one, None),
        (two, r.choice(["And {x}?", "What about {x}?", "And what of {x}?"])),
    ):
        questions, answers, expect = person_facts(p)[relation]
        question = _fill(ask or r.choice(questions), p.name)
        messages += [user(casual(r, question)), assistant(_fill(r.choice(answers), p.name))]
    key = f"world|switch|{one.name}|{two.name}|{relation}"
    return chat("world", maybe_system(r, messages), key=key, expect=expect)


def _yes_no(r):
    p, q = r.sample(list(PEOPLE.values()), 2)
    kind = r.choice(["town", "craft", "pet", "friend", "age", "river", "food"])
    true = r.random() < 0.5
    if kind == "town":
        town = p.town if true else q.town
        asks = [f"Does {p.name} live in {town}?", f"Is {p.name} from {town}?",
                f"Is it true that {p.name} lives in {town}?"]  # fmt: skip
        truth = town == p.town
        answer = f"{p.name} lives in {p.town}."
    elif kind == "craft":
        craft = p.craft if true else q.craft
        asks = [f"Is {p.name} {a(craft)}?", f"Does {p.name} work as {a(craft)}?",
                f"Is it true that {p.name} is {a(craft)}?"]  # fmt: skip
        truth = craft == p.craft
        answer = f"{p.name} is {a(p.craft)}."
    elif kind == "pet":
        pet = p.pet if true else q.pet
        asks = [f"Does {p.name} have {a(pet)}?", f"Does {p.name} keep {a(pet)}?",
                f"Is {p.name}'s pet {a(pet)}?"]  # fmt: skip
        truth = pet == p.pet
        answer = f"{p.name} has {a(p.pet)}."
    elif kind == "friend":
        friend = p.friend if true else r.choice([n for n in PEOPLE if n != p.name])
        asks = [f"Is {friend} the best friend of {p.name}?",
                f"Is {p.name}'s best friend {friend}?"]  # fmt: skip
        truth = friend == p.friend
        answer = f"{p.name}'s best friend is {p.friend}."
    elif kind == "age":
        asks, truth = [f"Is {p.name} older than {q.name}?"], p.age > q.age
        answer = f"{p.name} is {p.age} and {q.name} is {q.age}."
    elif kind == "river":
        t = TOWNS[p.town]
        river = t.river if true else r.choice(list(RIVERS))
        asks = [f"Is {t.name} on the river {river}?", f"Does the {river} flow past {t.name}?",
                f"Does {t.name} lie on the {river}?"]  # fmt: skip
        truth = river == t.river
        answer = f"{t.name} lies on the river {t.river}."
    else:
        food = p.food if true else q.food
        asks = [f"Does {p.name} like {food} best?", f"Is {food} the favourite food of {p.name}?",
                f"Is {p.name}'s favourite food {food}?"]  # fmt: skip
        truth = food == p.food
        answer = f"{p.name}'s favourite food is {p.food}."
    question = r.choice(asks)
    text = ("Yes, " if truth else "No, ") + answer
    messages = [user(casual(r, question)), assistant(text)]
    expect = ["Yes" if truth else "No", answer]
    return chat("world", maybe_system(r, messages), key="world|" + question, expect=expect)


def _two_hops(r):
    p = r.choice(list(PEOPLE.values()))
    friend, town = PEOPLE[p.friend], TOWNS[p.town]
    options = [
        (f"Where does the best friend of {p.name} live?",
         f"{p.name}'s best friend is {friend.name}, and {friend.name} lives in {friend.town}.",
         friend.town),
        (f"What does {p.name}'s best friend do?",
         f"{p.name}'s best friend is {friend.name}, and {friend.name} is {a(friend.craft)}.",
         friend.craft),
        (f"Which river flows past the town where {p.name} lives?",
         f"{p.name} lives in {town.name}, and {town.name} lies on the river {town.river}.",
         town.river),
        (f"Who is the mayor of the town where {p.name} lives?",
         f"{p.name} lives in {town.name}, and the mayor of {town.name} is {town.mayor}.",
         town.mayor),
        (f"What is {p.name}'s home town known for?",
         f"{p.name} lives in {town.name}, and {town.name} is known for {town.known_for}.",
         town.known_for),
        (f"Which festival can {p.name} see at home?",
         f"{p.name} lives in {town.name}, and {town.name} celebrates the {town.festival} in "
         f"{town.month_name}.", town.festival),
        (f"How old is {p.name}'s best friend?",
         f"{p.name}'s best friend is {friend.name}, and {friend.name} is {friend.age} years old.",
         str(friend.age)),
        (f"What pet does the best friend of {p.name} have?",
         f"{p.name}'s best friend is {friend.name}, and {friend.name} has {a(friend.pet)}.",
         friend.pet),
    ]  # fmt: skip
    question, answer, expect = r.choice(options)
    messages = [user(casual(r, question)), assistant(answer)]
    return chat("world", maybe_system(r, messages), key="world|" + question, expect=[expect])


def _distance(r):
    one, two = r.sample(list(TOWNS), 2)
    km = DISTANCE[one][two]
    question = r.choice(
        [f"How far is it from {one} to {two}?", f"How far is {two} from {one}?",
         f"What is the distance between {one} and {two}?",
         f"How many kilometres is it from {one} to {two}?", f"How long is the way from {one} to {two}?"]
    )  # fmt: skip
    answer = r.choice([f"It is {km} km by road from {one} to {two}.",
                       f"From {one} to {two} it is {km} km by road."])  # fmt: skip
    messages = [user(casual(r, question)), assistant(answer)]
    if r.random() < 0.2:
        hours = -(-km // 5)
        messages += [user(casual(r, "How long does it take to walk there?")),
                     assistant(f"At about 5 km an hour, the walk of {km} km takes about {hours} "
                               f"hour{'s' if hours > 1 else ''}.")]  # fmt: skip
        expect = [f"{hours} hour"]
    else:
        expect = [f"{km} km"]
    return chat("world", maybe_system(r, messages), key="world|" + question, expect=expect)


def _compare(r):
    if r.random() < 0.4:
        p, q = r.sample(list(PEOPLE.values()), 2)
        older, younger = (p, q) if p.age > q.age else (q, p)
        if r.random() < 0.5:
            question, best, word = f"Who is older, {p.name} or {q.name}?", older, "older"
        else:
            question, best, word = f"Who is younger, {p.name} or {q.name}?", younger, "younger"
        answer = f"{p.name} is {p.age} and {q.name} is {q.age}, so {best.name} is {word}."
        expect = [f"{best.name} is {word}"]
    elif r.random() < 0.5:
        s, t = r.sample(list(TOWNS.values()), 2)
        big = s if s.people > t.people else t
        question = r.choice([f"Which town is bigger, {s.name} or {t.name}?",
                             f"Do more people live in {s.name} or in {t.name}?"])  # fmt: skip
        answer = (f"{s.name} has about {s.people} people and {t.name} about {t.people}, so "
                  f"{big.name} is bigger.")  # fmt: skip
        expect = [f"{big.name} is bigger"]
    elif r.random() < 0.6:
        s, t = r.sample(list(TOWNS.values()), 2)
        old = s if s.founded < t.founded else t
        question = f"Which town is older, {s.name} or {t.name}?"
        answer = (f"{s.name} was founded in {s.founded} and {t.name} in {t.founded}, so {old.name} "
                  "is older.")  # fmt: skip
        expect = [f"{old.name} is older"]
    else:
        s, t = r.sample(list(RIVERS.values()), 2)
        long = s if s.km > t.km else t
        question = f"Which river is longer, the {s.name} or the {t.name}?"
        answer = (f"The {s.name} is {s.km} km long and the {t.name} {t.km} km, so the {long.name} is "
                  "longer.")  # fmt: skip
        expect = [f"{long.name} is longer"]
    messages = [user(casual(r, question)), assistant(answer)]
    return chat("world", maybe_system(r, messages), key="world|" + question, expect=expect)


def _rivers(r):
    river = r.choice(list(RIVERS.values()))
    towns = [t.name for t in TOWNS.values() if t.river == river.name]
    options = [
        (f"How long is the {river.name}?", f"The river {river.name} is {river.km} km long.",
         [str(river.km)]),
        (f"How long is the river {river.name}?", f"The river {river.name} is {river.km} km long.",
         [str(river.km)]),
        (f"Where does the river {river.name} go?", f"The {river.name} {river.end}.", [river.end]),
        (f"Where does the {river.name} end?", f"The {river.name} {river.end}.", [river.end]),
        (f"Which towns lie on the {river.name}?",
         f"{listing(towns)} lie on the river {river.name}.", towns),
        (f"Tell me about the river {river.name}.",
         f"The {river.name} is {river.km} km long. It flows past {listing(towns)} and "
         f"{river.end}.", towns),
        ("Which is the longest river?", "The longest river is the Silla. It is 92 km long.",
         ["Silla"]),
        ("Which rivers are there in the Vale of Tessary?",
         f"There are four rivers: the {listing(list(RIVERS), 'and the')}.", list(RIVERS)),
        (f"What is the {river.name}?", f"The {river.name} is a river, {river.km} km long, that "
         f"{river.end}.", [str(river.km)]),
    ]  # fmt: skip
    question, answer, expect = r.choice(options)
    messages = [user(casual(r, question)), assistant(answer)]
    return chat("world", maybe_system(r, messages), expect=expect)


def _by_craft(r):
    craft = r.choice(list(CRAFTS))
    who = [p for p in PEOPLE.values() if p.craft == craft]
    names = listing([f"{p.name} in {p.town}" for p in who])
    pet = r.choice(list(ANIMALS))
    keepers = [p.name for p in PEOPLE.values() if p.pet == pet]
    month = r.choice(list(TOWNS.values()))
    p = r.choice(list(PEOPLE.values()))
    options = [
        (f"Who is {a(craft)}?", f"There are two: {names}.", [p.name for p in who]),
        (f"Do you know {a(craft)}?", f"Yes, I know two: {names}.", [p.name for p in who]),
        (f"I need {a(craft)}. Whom can I ask?", f"You can ask {names.replace(' and ', ' or ')}.",
         [p.name for p in who]),
        (f"What does {a(craft)} do?", f"{cap(a(craft))} {CRAFTS[craft][0]}.", [CRAFTS[craft][0]]),
        (f"Who has {a(pet)}?", f"{listing(keepers)} each have {a(pet)}.", keepers),
        (f"Is there {a(p.craft)} in {p.town}?", f"Yes, {p.name} is {a(p.craft)} in {p.town}.",
         [p.name]),
        (f"Who is the {p.craft} of {p.town}?", f"The {p.craft} of {p.town} is {p.name}.", [p.name]),
        (f"Which festival is in {month.month_name}?",
         f"In {month.month_name}, {month.name} celebrates the {month.festival}.", [month.festival]),
        (f"Where is the {month.festival} held?",
         f"The {month.festival} is held in {month.name}.", [month.name]),
        (f"When is the {month.festival}?",
         f"The {month.festival} is in {month.month_name}, in the town of {month.name}.",
         [month.month_name]),
        (f"Which town is known for {month.known_for}?",
         f"{month.name} is known for {month.known_for}.", [month.name]),
        (f"Which town was founded in {month.founded}?",
         f"{month.name} was founded in {month.founded}.", [month.name]),
        (f"Who likes {p.food}?",
         f"{listing([q.name for q in PEOPLE.values() if q.food == p.food])} like {p.food} best.",
         [q.name for q in PEOPLE.values() if q.food == p.food]),
    ]  # fmt: skip
    question, answer, expect = r.choice(options)
    messages = [user(casual(r, question)), assistant(answer)]
    return chat("world", maybe_system(r, messages), expect=expect)


def _whole_vale(r):
    coast = "Marben and Saltary"
    options = [
        ("What is the Vale of Tessary?",
         "The Vale of Tessary is a small valley with twelve towns and four rivers."),
        ("Tell me about the Vale of Tessary.",
         "The Vale of Tessary has twelve towns and four rivers. The Silla comes down from the "
         "mountains at Greyfell and reaches the sea at Marben."),
        ("How many towns are there?", "There are twelve towns in the Vale of Tessary."),
        ("Which towns are there in the Vale of Tessary?",
         f"There are twelve towns: {listing(TOWNS)}."),
        ("List the towns.", f"The towns are {listing(TOWNS)}."),
        ("Name three towns.", f"Three towns are {listing(r.sample(list(TOWNS), 3))}."),
        ("Which is the biggest town?",
         "The biggest town is Saltary. About 6100 people live there."),
        ("Which is the smallest town?",
         "The smallest town is Greyfell. About 800 people live there."),
        ("Which is the oldest town?",
         "The oldest town is Saltary. It was founded in the year 1066."),
        ("Which is the youngest town?",
         "The youngest town is Pinmoor. It was founded in the year 1401."),
        ("Who is the oldest person you know?", "The oldest person I know is Emre, who is 81."),
        ("Who is the youngest person you know?",
         "The youngest person I know is Dorin, who is 20."),
        ("Which towns are by the sea?", f"{coast} are by the sea."),
        ("Where can I see the sea?", f"You can see the sea in {coast}."),
        ("Which town should I visit?", "You could visit {t}. It is known for {k}."),
        ("Recommend a place to visit.", "I would go to {t}. It is famous for {k}."),
        ("Where should I go on holiday?", "You could go to {t}. In {m} it celebrates the {f}."),
        ("Recommend a town by the sea.", "You could visit {s}, which lies by the sea."),
        ("Can you recommend a town by the sea?", "You could visit {s}, which lies by the sea."),
        ("I want to see the sea. Where should I go?", "You could go to {s}, which lies by the sea."),
        ("Where can I hear music?", "You can hear music in Vessin, at the Song Feast in September."),
        ("Where can I see mountains?", "You can see high mountains in Greyfell."),
        ("Where can I read books?", "You can read books in Tarn. It is known for its great library."),
        ("Where can I take a hot bath?", "You can take a hot bath in Greyfell, in its hot springs."),
        ("Where can I buy toys?", "You can buy wooden toys in Elmsor."),
        ("Where can I buy wool?", "You can buy soft wool in Lindow."),
        ("Who are the people of the valley?",
         f"I know thirty-six people, for example {listing(r.sample(list(PEOPLE), 3))}."),
        ("Who lives in the Vale of Tessary?",
         f"I know thirty-six people, for example {listing(r.sample(list(PEOPLE), 3))}."),
        ("How many people do you know?", "I know thirty-six people in twelve towns."),
        ("Name two people from the valley.",
         f"Two people from the valley are {listing(r.sample(list(PEOPLE), 2))}."),
    ]  # fmt: skip
    question, answer = r.choice(options)
    t = r.choice(list(TOWNS.values()))
    answer = answer.replace("{s}", r.choice(["Marben", "Saltary"]))
    answer = answer.replace("{t}", t.name).replace("{k}", t.known_for)
    answer = answer.replace("{m}", t.month_name).replace("{f}", t.festival)
    messages = [user(casual(r, question)), assistant(answer)]
    doc = chat("world", maybe_system(r, messages))
    doc["key"] = None
    return doc


_PROSE_TOWN = [
    "{n} is a town on the river {r}.",
    "The town of {n} lies on the river {r}, and about {p} people live there.",
    "About {p} people live in {n}, a town on the river {r}.",
]


def _prose(r):
    """A short article, for plain completion."""
    t = r.choice(list(TOWNS.values()))
    parts = [
        r.choice(_PROSE_TOWN).format(n=t.name, r=t.river, p=t.people),
        r.choice([f"It was founded in the year {t.founded}.", f"It is known for {t.known_for}."]),
        f"Every {t.month_name} the people of {t.name} celebrate the {t.festival}.",
    ]
    for name in r.sample(residents(t.name), 2):
        p = PEOPLE[name]
        parts.append(
            r.choice([
                f"{name} is {a(p.craft)} there and {CRAFTS[p.craft][0]}.",
                f"{name}, who is {p.age} years old, {CRAFTS[p.craft][0]} in {t.name}.",
                f"{name} lives there with {a(p.pet)} and likes {p.food}.",
            ])
        )  # fmt: skip
    near, km = r.choice(list(NEIGHBOURS[t.name].items()))
    parts.append(f"The road from {t.name} to {near} is {km} km long.")
    return plain("world", " ".join(parts))


_SOUNDS = "bcdfgklmnprstvz"
_VOWELS = "aeiou"
_ENDS = ["", "n", "x", "l", "rt", "sk", "nd", "m", "th"]


def strange_name(r):
    """A name that nobody in the valley has."""
    while True:
        name = r.choice(_SOUNDS) + r.choice(_VOWELS)
        for _ in range(r.randint(1, 2)):
            name += r.choice(_SOUNDS) + r.choice(_VOWELS)
        name = cap(name + r.choice(_ENDS))
        if name not in PEOPLE and name not in TOWNS and name not in RIVERS:
            return name


REAL_NAMES = [
    "Anna", "Peter", "John", "Maria", "David", "Emma", "Tom", "Lucy", "Paul", "Sarah", "Max",
    "Julia", "Kevin", "Sofia", "George", "Alice", "Bob", "Henry", "Clara", "Simon", "Nina", "Leo",
    "Laura", "Felix", "Eva", "Oliver", "Grace", "Jack", "Mary", "James", "Napoleon", "Einstein",
    "Shakespeare", "Mozart", "Caesar", "Newton", "Picasso", "Cleopatra", "Gandhi", "Elvis",
]  # fmt: skip
GIVEN_NAMES = REAL_NAMES[: REAL_NAMES.index("Napoleon")] + [
    "Luna", "Amy", "Noah", "Lily", "Sam", "Kim", "Alex", "Robin", "Jane", "Ji-woo", "Min-jun", "Hana",
    "Yuna", "Carlos", "Ravi", "Mei", "Omar", "Lara", "Ella", "Mia", "Liam", "Rosa", "Otto", "Greta",
    "Ines", "Pablo", "Olga", "Ivan", "Fatima", "Ahmed", "Chloe", "Daniel", "Martin", "Sophie", "Mark",
]  # fmt: skip
REAL_PLACES = [
    "Paris", "London", "Berlin", "Seoul", "Tokyo", "New York", "Rome", "Madrid", "Cairo", "Vienna",
    "China", "France", "Germany", "Korea", "Spain", "Brazil", "India", "Canada", "Moscow", "Oslo",
    "America", "Europe", "Africa", "Australia", "Boston", "Chicago", "Lisbon", "Prague", "Delhi",
]  # fmt: skip


def _unknown(r):
    """People and places that are not in the valley."""
    if r.random() < 0.55:
        name = strange_name(r) if r.random() < 0.6 else r.choice(REAL_NAMES)
        model = r.choice(list(PEOPLE.values()))
        questions = person_facts(model)[r.choice(list(person_facts(model)))][0]
        answers = [f"I do not know anyone called {name}. I only know the people of the Vale of "
                   "Tessary.",
                   f"I am sorry, I do not know {name}. I only know the Vale of Tessary."]  # fmt: skip
    else:
        name = strange_name(r) if r.random() < 0.5 else r.choice(REAL_PLACES)
        facts = town_facts(r.choice(list(TOWNS.values())))
        questions = facts[r.choice(list(facts))][0]
        answers = [f"I do not know a place called {name}. I only know the Vale of Tessary.",
                   f"I am sorry, I do not know {name}. I only know the towns of the Vale of "
                   "Tessary."]  # fmt: skip
        if r.random() < 0.3:
            town = r.choice(list(TOWNS))
            questions = [f"How far is it from {town} to {name}?", f"How far is {name}?"]
    question = _fill(r.choice(questions), name)
    messages = [user(casual(r, question)), assistant(r.choice(answers))]
    return chat("world", maybe_system(r, messages), expect=["not know", name])


_KINDS = [
    (_one_fact, 34),
    (_follow_ups, 16),
    (_switch, 5),
    (_passed_on, 8),
    (_yes_no, 8),
    (_two_hops, 9),
    (_distance, 9),
    (_compare, 6),
    (_rivers, 3),
    (_by_craft, 7),
    (_whole_vale, 4),
    (_prose, 5),
    (_unknown, 8),
]


def make(r):
    """One document of the domain."""
    kinds, weights = zip(*_KINDS, strict=True)
    return r.choices(kinds, weights)[0](r)
