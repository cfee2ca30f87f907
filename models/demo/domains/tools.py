"""Conversations with tools: calls in <tool_call> tags, their results, and JSON on demand."""

import json

from .common import a, assistant, casual, chat, listing, maybe_system, system, user
from .vale import CRAFTS, DISTANCE, MONTHS, PEOPLE, TOWNS
from .world import REAL_NAMES, REAL_PLACES, strange_name

_LONG_PLACES = ["San Francisco", "Los Angeles", "Buenos Aires", "Cape Town", "Hong Kong", "Mexico City",
                "San Francisco, CA", "Boston, MA", "Paris, France", "Seoul, Korea", "Rio de Janeiro"]  # fmt: skip


def _place(r):
    kind = r.random()
    if kind < 0.35:
        return r.choice(list(TOWNS))
    if kind < 0.45:
        return r.choice(_LONG_PLACES)
    return r.choice(REAL_PLACES) if kind < 0.75 else strange_name(r)


def _name(r):
    return r.choice(list(PEOPLE)) if r.random() < 0.5 else r.choice(REAL_NAMES)


_ITEMS = ["milk", "eggs", "bread", "apples", "cheese", "flour", "candles", "soap", "tea", "rice",
          "honey", "carrots", "butter", "paper", "nails", "salt", "sugar", "onions", "batteries"]  # fmt: skip
_TASKS = ["call the doctor", "water the plants", "feed the cat", "pay the baker", "buy bread",
          "write to Mira", "clean the kitchen", "wash the car", "book the boat", "go for a walk",
          "read the letter", "fix the clock", "send the report", "take the medicine",
          "visit my mother", "close the window", "bake a cake", "call Peter"]  # fmt: skip
_TEXTS = ["I will be late", "dinner is ready", "see you tomorrow", "the boat is here",
          "happy birthday", "please call me", "I am at home", "the train is late", "good luck",
          "the meeting is at noon", "thank you for the cake", "I found your keys",
          "the parcel has arrived", "I am on my way"]  # fmt: skip
_SONGS = ["The River Song", "Blue Morning", "Dance of the Geese", "Silver Moon", "Old Bridge",
          "Winter Road", "Little Star", "The Miller's Waltz", "Red Sails", "Evening Bells"]  # fmt: skip
_TOPICS = ["bees", "old clocks", "the history of Tarn", "wooden boats", "pear jam", "snow", "goats",
           "windmills", "glass lamps", "the river Silla", "sheep", "honey bread", "lighthouses",
           "the sea", "hot springs", "mushrooms", "music", "bridges"]  # fmt: skip
_WEATHER = ["sunny", "rainy", "cloudy", "windy", "snowy", "foggy", "clear", "stormy",
            "partly cloudy", "hot", "cold", "mild", "warm and dry"]  # fmt: skip
_UNITS = {"metres": "feet", "kilometres": "miles", "kilograms": "pounds", "litres": "gallons",
          "miles": "kilometres", "pounds": "kilograms", "feet": "metres"}  # fmt: skip
_LANGUAGES = ["French", "German", "Korean", "Spanish", "Italian", "Japanese"]
_LIGHTS = ["kitchen", "bedroom", "hall", "garden", "bathroom", "office", "living room", "cellar"]


def _time(r):
    return f"{r.randint(0, 23):02d}:{r.choice(['00', '15', '30', '45'])}"


# One family per function: (names, description, parameters, make). `make` gives the values, ways to
# ask, the result as the tool would answer it, and ways to tell it.


def _weather(r):
    city = _place(r)
    sky, degrees = r.choice(_WEATHER), r.randint(-10, 35)
    return (
        {"city": city},
        ["What is the weather in {city}?", "How is the weather in {city}?", "Is it raining in {city}?",
         "What's the weather like in {city} today?", "Tell me the weather in {city}.",
         "Do I need a coat in {city}?", "How warm is it in {city}?", "Weather in {city}?"],
        {"temperature": degrees, "condition": sky},
        [f"It is {sky} in {city}, with {degrees} degrees.",
         f"In {city} it is {sky} and {degrees} degrees."],
    )  # fmt: skip


def _clock(r):
    city, time = _place(r), _time(r)
    return (
        {"city": city},
        ["What time is it in {city}?", "What is the time in {city}?", "Tell me the time in {city}.",
         "How late is it in {city}?"],
        {"time": time},
        [f"It is {time} in {city}."],
    )  # fmt: skip


def _calculate(r):
    x, y, op = r.randint(2, 999), r.randint(2, 999), r.choice("+-*")
    result = {"+": x + y, "-": x - y, "*": x * y}[op]
    return (
        {"expression": f"{x} {op} {y}"},
        ["Calculate {expression}.", "What is {expression}?", "Please compute {expression}.",
         "How much is {expression}?", "Use the calculator for {expression}."],
        {"result": result},
        [f"{x} {op} {y} = {result}.", f"The result is {result}."],
    )  # fmt: skip


def _message(r):
    name, text = _name(r), r.choice(_TEXTS)
    return (
        {"to": name, "text": text},
        ["Send {to} a message: {text}.", "Tell {to}: {text}.", "Write to {to}: {text}.",
         "Send a message to {to} that says: {text}.", "Message {to}: {text}."],
        {"status": "sent"},
        [f"I have sent the message to {name}.", f"Done. {name} has your message."],
    )  # fmt: skip


def _remind(r):
    task, time = r.choice(_TASKS), _time(r)
    return (
        {"task": task, "time": time},
        ["Remind me to {task} at {time}.", "Set a reminder at {time}: {task}.",
         "At {time} I have to {task}. Remind me.", "Please remind me at {time} to {task}."],
        {"status": "ok"},
        [f"I will remind you at {time} to {task.replace('my ', 'your ')}.",
         f"Your reminder is set for {time}."],
    )  # fmt: skip


def _timer(r):
    minutes = r.randint(1, 90)
    unit = "minute" if minutes == 1 else "minutes"
    return (
        {"minutes": minutes},
        [f"Set a timer for {{minutes}} {unit}.", f"Wake me in {{minutes}} {unit}.",
         f"Start a timer of {{minutes}} {unit}.", f"Timer: {{minutes}} {unit}."],
        {"status": "started"},
        [f"The timer runs for {minutes} {unit}.", f"I have set a timer for {minutes} {unit}."],
    )  # fmt: skip


def _shopping(r):
    item, count = r.choice(_ITEMS), r.randint(1, 12)
    return (
        {"item": item, "count": count},
        ["Put {count} {item} on my list.", "Add {count} {item} to the shopping list.",
         "I need {count} {item}. Add it to the list.", "Write {count} {item} on the list."],
        {"items": r.randint(1, 20)},
        [f"I have put {count} {item} on your list.", f"Your list now has {count} {item} on it."],
    )  # fmt: skip


def _play(r):
    song = r.choice(_SONGS)
    return (
        {"song": song},
        ["Play {song}.", "I want to hear {song}.", "Please play the song {song}.", "Put on {song}."],
        {"status": "playing"},
        [f"Now playing {song}.", f"Here is {song}."],
    )  # fmt: skip


def _search(r):
    topic = r.choice(_TOPICS)
    n = r.randint(1, 40)
    return (
        {"query": topic},
        ["Search for {query}.", "Find something about {query}.", "Look up {query}.",
         "Search the library for {query}.", "Find books about {query}."],
        {"found": n},
        [f"I found {n} result{'s' if n > 1 else ''} about {topic}."],
    )  # fmt: skip


def _route(r):
    one, two = r.sample(list(TOWNS), 2)
    km = DISTANCE[one][two]
    return (
        {"start": one, "goal": two},
        ["Find the way from {start} to {goal}.", "Plan a trip from {start} to {goal}.",
         "How do I get from {start} to {goal}?", "Show me the route from {start} to {goal}."],
        {"km": km},
        [f"The way from {one} to {two} is {km} km long."],
    )  # fmt: skip


def _person(r):
    p = PEOPLE[r.choice(list(PEOPLE))]
    number = f"{r.randint(100, 999)} {r.randint(1000, 9999)}"
    return (
        {"name": p.name},
        ["What is the phone number of {name}?", "Give me the number of {name}.",
         "Look up the number of {name}.", "How can I call {name}?"],
        {"phone": number},
        [f"The number of {p.name} is {number}."],
    )  # fmt: skip


def _convert(r):
    one = r.choice(list(_UNITS))
    x = r.randint(1, 200)
    value = r.randint(1, 500)
    return (
        {"value": x, "from": one, "to": _UNITS[one]},
        ["Convert {value} {from} to {to}.", "How many {to} are {value} {from}?",
         "What are {value} {from} in {to}?"],
        {"value": value},
        [f"{x} {one} are about {value} {_UNITS[one]}."],
    )  # fmt: skip


def _translate(r):
    text, language = r.choice(_TEXTS), r.choice(_LANGUAGES)
    return (
        {"text": text, "language": language},
        ["Translate into {language}: {text}.", "What is \"{text}\" in {language}?",
         "How do I say \"{text}\" in {language}?", "Say \"{text}\" in {language}."],
        {"status": "shown"},
        [f"The {language} text is on your screen."],
    )  # fmt: skip


def _light(r):
    room, on = r.choice(_LIGHTS), r.random() < 0.5
    state = "on" if on else "off"
    return (
        {"room": room, "on": on},
        [f"Turn {state} the light in the {{room}}.", f"Switch the {{room}} light {state}.",
         f"Lights {state} in the {{room}}, please.", f"Turn the {{room}} light {state}."],
        {"status": "ok"},
        [f"The light in the {room} is {state} now."],
    )  # fmt: skip


def _table(r):
    place, people, time = _place(r), r.randint(1, 9), _time(r)
    return (
        {"city": place, "people": people, "time": time},
        ["Book a table in {city} for {people} at {time}.", "I need a table for {people} in {city} at {time}.",
         "Reserve a table for {people} people at {time} in {city}."],
        {"status": "booked"},
        [f"Your table for {people} in {place} at {time} is booked."],
    )  # fmt: skip


def _event(r):
    month, day, task = r.choice(MONTHS), r.randint(1, 28), r.choice(_TASKS)
    return (
        {"title": task, "month": month, "day": day},
        ["Put \"{title}\" in my calendar for {month} {day}.", "On {month} {day} I must {title}. Note it.",
         "Add to my calendar on {month} {day}: {title}."],
        {"status": "saved"},
        [f"I have noted it for {month} {day}."],
    )  # fmt: skip


_S, _I, _B = "string", "integer", "boolean"
# names, description, {argument: (type, description, other names)}, make
FAMILIES = [
    (["get_weather", "weather", "current_weather", "get_current_weather", "weather_now"],
     ["Get the weather of a city.", "Current weather in a place", "Tells the weather in a town.",
      "Get the current weather in a given location."],
     {"city": (_S, "Name of the city", ["location", "town", "place"])}, _weather),
    (["get_time", "clock", "current_time", "time_in"],
     ["Get the time in a city.", "Tells what time it is in a place."],
     {"city": (_S, "Name of the city", ["location", "place", "timezone"])}, _clock),
    (["calculator", "calculate", "compute", "eval_math"],
     ["Calculate an expression.", "A calculator for large numbers"],
     {"expression": (_S, "What to calculate", ["formula", "expr", "input"])}, _calculate),
    (["send_message", "message", "send_text", "text_person"],
     ["Send a message to a person.", "Sends a short text to someone."],
     {"to": (_S, "Who gets it", ["recipient", "name", "person"]),
      "text": (_S, "The message", ["message", "body", "content"])}, _message),
    (["set_reminder", "remind", "create_reminder", "add_reminder"],
     ["Set a reminder.", "Reminds the user of a task at a time."],
     {"task": (_S, "What to do", ["text", "title", "what"]),
      "time": (_S, "When, as HH:MM", ["at", "when"])}, _remind),
    (["set_timer", "timer", "start_timer"],
     ["Start a timer.", "A kitchen timer"],
     {"minutes": (_I, "How many minutes", ["duration", "length"])}, _timer),
    (["add_to_list", "shopping_list", "add_item", "list_add"],
     ["Put something on the shopping list.", "Adds an item to the list."],
     {"item": (_S, "What to buy", ["name", "product"]),
      "count": (_I, "How many", ["quantity", "amount", "number"])}, _shopping),
    (["play_song", "play_music", "player", "play"],
     ["Play a song.", "Plays music by title."],
     {"song": (_S, "Title of the song", ["title", "track", "name"])}, _play),
    (["search", "search_library", "find_books", "web_search"],
     ["Search for a topic.", "Finds texts about something."],
     {"query": (_S, "What to look for", ["q", "topic", "text"])}, _search),
    (["find_route", "route", "plan_trip", "get_directions"],
     ["Find the way between two towns.", "Plans a trip by road."],
     {"start": (_S, "Where the trip begins", ["from", "origin"]),
      "goal": (_S, "Where the trip ends", ["to", "destination"])}, _route),
    (["phone_book", "find_number", "lookup_phone", "get_contact"],
     ["Find the phone number of a person.", "Looks up a number."],
     {"name": (_S, "Name of the person", ["person", "who"])}, _person),
    (["convert_units", "convert", "unit_converter"],
     ["Convert a value to another unit.", "Unit conversion"],
     {"value": (_I, "The number", ["amount", "x"]),
      "from": (_S, "Unit of the number", ["from_unit", "source"]),
      "to": (_S, "Unit that is wanted", ["to_unit", "target"])}, _convert),
    (["translate", "translate_text", "translator"],
     ["Translate a text.", "Says a text in another language."],
     {"text": (_S, "The text", ["input", "sentence"]),
      "language": (_S, "Language to translate into", ["target", "target_language", "to"])}, _translate),
    (["set_light", "switch_light", "lights", "light_control"],
     ["Turn a light on or off.", "Controls the lights of the house."],
     {"room": (_S, "Which room", ["where", "place"]),
      "on": (_B, "true for on, false for off", ["state", "enabled"])}, _light),
    (["book_table", "reserve_table", "restaurant"],
     ["Book a table.", "Reserves a table in a restaurant."],
     {"city": (_S, "Where", ["location", "place"]),
      "people": (_I, "How many people", ["guests", "party_size"]),
      "time": (_S, "When, as HH:MM", ["at"])}, _table),
    (["add_event", "calendar", "create_event"],
     ["Add an event to the calendar.", "Notes a date."],
     {"title": (_S, "Name of the event", ["name", "what", "event"]),
      "month": (_S, "The month", []),
      "day": (_I, "The day", ["date"])}, _event),
]  # fmt: skip


def _renamed(r, name):
    """Now and then a name that only the prompt can tell."""
    roll = r.random()
    if roll < 0.75:
        return name
    if roll < 0.85:
        first, *rest = name.split("_")
        return first + "".join(part.capitalize() for part in rest)
    if roll < 0.93:
        return r.choice(["my", "home", "api", "demo", "user", "fast"]) + "_" + name
    return name + "_" + r.choice(["v2", "tool", "service", "api", "now", "x"])


_VERBS = ["order", "open", "close", "find", "count", "paint", "clean", "start", "stop", "check", "move",
          "rent", "buy", "sell", "repair", "lock", "print", "feed", "wash", "call", "show", "delete"]  # fmt: skip
_NOUNS = ["door", "pizza", "window", "ticket", "robot", "car", "boat", "bicycle", "file", "room", "garden",
          "oven", "lamp", "horse", "kettle", "bell", "taxi", "photo", "shop", "bus", "pump", "gate"]  # fmt: skip


def _invented(r):
    """A tool nobody has seen before: a verb, a noun and one or two arguments."""
    verb, noun = r.choice(_VERBS), r.choice(_NOUNS)
    kinds = {
        "color": (_S, ["red", "green", "blue", "white", "black", "yellow"]),
        "size": (_S, ["small", "medium", "large"]),
        "number": (_I, list(range(1, 100))),
        "owner": (_S, REAL_NAMES),
        "floor": (_I, list(range(1, 20))),
        "town": (_S, list(TOWNS)),
        "id": (_I, list(range(100, 1000))),
        "day": (_S, ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]),
    }
    names = r.sample(list(kinds), r.randint(1, 2))
    arguments = {n: (kinds[n][0], f"The {n} of the {noun}", []) for n in names}

    def make(r):
        values = {n: r.choice(kinds[n][1]) for n in names}
        said = listing(f"{n} {{{n}}}" for n in names)
        asks = [f"Please {verb} the {noun} with {said}.", f"{verb.capitalize()} the {noun} with {said}.",
                f"I want to {verb} the {noun} with {said}."]  # fmt: skip
        return values, asks, {"status": "done"}, [f"It is done: {verb} the {noun}."]

    return ([f"{verb}_{noun}"], [f"{verb.capitalize()} a {noun}.", f"Can {verb} the {noun}."],
            arguments, make)  # fmt: skip


def _schema(r, family):
    """A tool as an OpenAI client would send it, and the names chosen for its arguments."""
    names, descriptions, arguments, _ = family
    chosen = {}
    properties = {}
    for argument, (kind, description, others) in arguments.items():
        name = argument
        if others and r.random() < 0.45:
            free = [o for o in others if o not in chosen.values() and o not in arguments]
            name = r.choice(free) if free else argument
        chosen[argument] = name
        properties[name] = {"type": kind}
        if r.random() < 0.7:
            properties[name]["description"] = description
    required = list(properties)
    if "city" in arguments and len(arguments) == 1 and r.random() < 0.25:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    parameters = {"type": "object", "properties": properties}
    if r.random() < 0.75:
        parameters["required"] = required
    function = {"name": _renamed(r, r.choice(names))}
    if r.random() < 0.9:
        function["description"] = r.choice(descriptions)
    function["parameters"] = parameters
    return {"type": "function", "function": function}, chosen


def call_text(calls):
    """Tool calls as the assistant writes them."""
    return "\n".join(
        "<tool_call>\n" + json.dumps(c, ensure_ascii=False) + "\n</tool_call>" for c in calls
    )


_DONE = ["ok", "OK", "Ok.", "done", "Done.", "success", "Success!", "It worked.", "true", "yes",
         "Completed", "The request was carried out.", "accepted", "finished"]  # fmt: skip


def _in_words(r, result, told):
    """A tool's result as a program without JSON would print it, or a person write it."""
    if set(result) == {"status"} and r.random() < 0.6:
        return r.choice([*_DONE, result["status"], told])
    items = list(result.items())
    r.shuffle(items)
    values = [str(v) for _, v in items]
    named = [f"{k}{r.choice([': ', '=', ' '])}{v}" for k, v in items]
    text = r.choice([", ".join(values), " ".join(values), "; ".join(values), "\n".join(values),
                     ", ".join(named), "\n".join(named), "Result: " + ", ".join(values),
                     listing(values), told, told])  # fmt: skip
    if "temperature" in result and r.random() < 0.5:
        unit = r.choice([" degrees", "°C", "°", " C", "C"])
        text = text.replace(str(result["temperature"]), str(result["temperature"]) + unit, 1)
        text = text.replace(unit + " degrees", unit)
    roll = r.random()
    if roll < 0.15:
        return text[:1].upper() + text[1:].rstrip(".") + "."
    return json.dumps(text, ensure_ascii=False) if roll < 0.2 else text


def _made(r, family, schema, names):
    """One use of a tool: (question, call, tool's answer as text, sentences telling it)."""
    values, asks, result, told = family[3](r)
    question = r.choice(asks).format(**values)
    call = {
        "name": schema["function"]["name"],
        "arguments": {names[k]: v for k, v in values.items()},
    }
    answer = r.choice(told)
    reply = json.dumps(result, ensure_ascii=False)
    if r.random() < 0.45:
        reply = _in_words(r, result, answer)
    return question, call, reply, answer


def _toolbox(r, wanted):
    """`wanted` families and some more, shuffled; with the schema of each."""
    count = r.choices([0, 1, 2, 3], [40, 30, 20, 10])[0]
    others = r.sample([f for f in FAMILIES if f not in wanted], count)
    if others and r.random() < 0.15:
        others[0] = _invented(r)
    box = [(f, *_schema(r, f)) for f in [*wanted, *others]]
    r.shuffle(box)
    return box


def _uses(r):
    """One or two questions that need a tool, with the tool's results and the final sentences."""
    wanted = r.sample(FAMILIES, r.choices([1, 2], [75, 25])[0])
    if r.random() < 0.15:
        wanted[0] = _invented(r)
    box = _toolbox(r, wanted)
    messages = []
    key = None
    for family in wanted:
        schema, names = next((s, n) for f, s, n in box if f is family)
        question, call, reply, told = _made(r, family, schema, names)
        key = key or "tools|" + question
        messages += [user(casual(r, question, False)), assistant(call_text([call]))]
        last_call = [call]
        if r.random() < 0.75:
            messages += [{"role": "tool", "content": reply}, assistant(told)]
        else:
            break
    if r.random() < 0.12 and messages[-1]["content"][0] != "<":
        messages += [user(r.choice(["Thank you!", "Thanks!"])), assistant("You are welcome!")]
    at = max(i for i, m in enumerate(messages) if m["content"].startswith("<tool_call>"))
    return chat("tools", maybe_system(r, messages, 0.3), key=key, turn=at - len(messages),
                expect=last_call, tools=[s for _, s, _ in box])  # fmt: skip


def _parallel(r):
    """One question that needs the same tool twice."""
    family = r.choice(FAMILIES[:2])
    box = _toolbox(r, [family])
    schema, names = next((s, n) for f, s, n in box if f is family)
    uses = []
    while len(uses) < 2:
        use = _made(r, family, schema, names)
        if not uses or use[1] != uses[0][1]:
            uses.append(use)
    cities = [next(iter(u[1]["arguments"].values())) for u in uses]
    what = "weather" if family is FAMILIES[0] else "time"
    question = f"What is the {what} in {cities[0]} and in {cities[1]}?"
    calls = [u[1] for u in uses]
    messages = [user(casual(r, question, False)), assistant(call_text(calls))]
    messages += [{"role": "tool", "content": u[2]} for u in uses]
    messages.append(assistant(" ".join(u[3] for u in uses)))
    return chat("tools", maybe_system(r, messages, 0.3), turn=-4, expect=calls,
                tools=[s for _, s, _ in box])  # fmt: skip


_NO_TOOL = ("I have no tool for that.", "I am sorry, none of my tools can do that.")


def _not_needed(r):
    """Tools are there but the question needs none of them, or one that is missing."""
    box = _toolbox(r, [r.choice(FAMILIES)])
    present = [f for f, _, _ in box]
    if r.random() < 0.6:
        p = r.choice(list(PEOPLE.values()))
        question, answer = r.choice([
            (f"Where does {p.name} live?", f"{p.name} lives in {p.town}."),
            (f"What does {p.name} do?", f"{p.name} is {a(p.craft)} and {CRAFTS[p.craft][0]}."),
            (f"How old is {p.name}?", f"{p.name} is {p.age} years old."),
            ("Hello!", "Hello! How can I help you?"),
            ("Who are you?", "I am Mosa, the small demo model of moesaic."),
            ("Thank you!", "You are welcome!"),
        ])  # fmt: skip
        key = None
    else:
        family = r.choice([f for f in FAMILIES if f not in present])
        values, asks, _, _ = family[3](r)
        question, answer = r.choice(asks).format(**values), r.choice(_NO_TOOL)
        key = "tools|" + question
    messages = [user(casual(r, question, key is None)), assistant(answer)]
    return chat("tools", maybe_system(r, messages, 0.3), key=key, expect=[], turn=-1,
                tools=[s for _, s, _ in box])  # fmt: skip


def _records(r):
    """Facts as JSON, without tools."""
    kind = r.random()
    if kind < 0.45:
        p = r.choice(list(PEOPLE.values()))
        fields = {"name": p.name, "age": p.age, "town": p.town, "craft": p.craft, "pet": p.pet,
                  "friend": p.friend, "food": p.food}  # fmt: skip
        name = p.name
    else:
        t = r.choice(list(TOWNS.values()))
        fields = {"name": t.name, "river": t.river, "founded": t.founded, "people": t.people,
                  "festival": t.festival, "mayor": t.mayor}  # fmt: skip
        name = t.name
    if r.random() < 0.4:
        question = r.choice([f"Describe {name} as JSON.", f"Give me {name} as JSON.",
                             f"Write a JSON object about {name}."])  # fmt: skip
        wanted = fields
    else:
        keys = r.sample(list(fields)[1:], r.randint(1, 4))
        wanted = {k: fields[k] for k in ["name", *keys]}
        question = r.choice([f"Give me the {listing(wanted)} of {name} as JSON.",
                             f"Write JSON about {name} with the keys {listing(wanted)}."])  # fmt: skip
    text = json.dumps(wanted, ensure_ascii=False)
    messages = [user(casual(r, question)), assistant(text)]
    if r.random() < 0.2:
        messages.insert(0, system("Answer only with JSON."))
    return chat("tools", messages, expect=[text])


_KINDS = [(_uses, 62), (_parallel, 6), (_not_needed, 18), (_records, 14)]


def make(r):
    """One document of the domain."""
    kinds, weights = zip(*_KINDS, strict=True)
    return r.choices(kinds, weights)[0](r)
