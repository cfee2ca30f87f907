"""Short stories with a beginning, a middle and an end, put together from matching parts."""

from .common import a, assistant, cap, casual, chat, maybe_system, plain, user
from .vale import ANIMALS, PEOPLE, TOWNS
from .world import GIVEN_NAMES, strange_name

_CHILDREN = [
    ("Lily", "she"), ("Ben", "he"), ("Nora", "she"), ("Finn", "he"), ("Ada", "she"), ("Theo", "he"),
    ("Ruby", "she"), ("Owen", "he"), ("Ivy", "she"), ("Milo", "he"), ("Zoe", "she"), ("Hugo", "he"),
]  # fmt: skip
_ANIMALS = [
    *ANIMALS, "bear", "mouse", "hedgehog", "duck", "wolf", "frog", "squirrel", "deer", "dragon",
    "horse", "cow", "sheep", "pig", "lion", "tiger", "elephant", "monkey", "giraffe", "whale", "seal",
    "swan", "robin", "sparrow", "badger", "beaver", "bee", "butterfly", "snail", "spider", "penguin",
    "parrot", "camel", "crow", "eagle", "otter", "mole", "lizard", "unicorn", "giant", "witch",
    "wizard", "king", "queen", "knight", "princess", "prince", "robot", "ghost", "pirate", "farmer",
]  # fmt: skip
_TRAITS = ["small", "curious", "brave", "shy", "kind", "clever", "quiet", "old", "young", "merry"]
_OBJECTS = ["lamp", "bell", "key", "boat", "map", "kite", "book", "drum", "scarf", "basket", "hat",
            "flute", "clock", "ring", "coin", "box", "mirror", "letter", "spoon", "star", "sword",
            "crown", "shoe", "coat", "blanket", "candle", "cup", "feather", "flower", "apple", "cake",
            "pumpkin", "violin", "ladder", "lantern", "umbrella", "wheel", "telescope", "compass",
            "painting", "stone", "pearl", "shell", "teapot", "balloon", "sledge", "wagon", "bottle",
            "rope", "pen", "doll", "ball", "whistle", "broom", "chair", "pillow", "sandwich"]  # fmt: skip
_PLACES = ["forest", "village", "mill", "garden", "valley", "harbour", "market", "mountain",
           "meadow", "lake", "cave", "tower", "castle", "island", "farm", "school", "beach",
           "library", "desert", "jungle", "city"]  # fmt: skip
_LOOKS = ["paper", "golden", "wooden", "blue", "broken", "magic", "tiny", "red", "silver", "big", "old",
          "green", "white", "black", "lost", "heavy", "strange", "shiny", "yellow", "glass"]  # fmt: skip
_AT = {"garden": "in the", "forest": "in the", "village": "in the", "mill": "at the",
       "valley": "in the", "harbour": "at the", "market": "at the", "mountain": "on the",
       "meadow": "in the", "lake": "at the", "cave": "in the", "tower": "in the",
       "castle": "in the", "island": "on the", "farm": "on the", "school": "at the", "beach": "on the",
       "library": "in the", "desert": "in the", "jungle": "in the", "city": "in the"}  # fmt: skip
_WEATHER = ["It was a bright morning.", "It was raining softly.", "The first snow had fallen.",
            "The wind blew from the hills.", "The sun was going down.", "A thick fog lay on the road.",
            "The moon was round and yellow."]  # fmt: skip


class Hero:
    """Who the story is about, with the pronouns and the names that the sentences use."""

    def __init__(self, r, kind=None):
        self.kind = kind or r.choice(["child", "animal", "animal", "person"])
        self.trait = r.choice(_TRAITS)
        if self.kind == "child":
            self.name, self.he = r.choice(_CHILDREN)
            if r.random() < 0.6:
                self.name = strange_name(r) if r.random() < 0.4 else r.choice(GIVEN_NAMES)
                self.he = r.choice(["he", "she"])
            self.what = "girl" if self.he == "she" else "boy"
            self.trait = r.choice([t for t in _TRAITS if t not in ("old", "young")])
            self.intro = f"{a(self.trait)} {self.what} named {self.name}"
        elif self.kind == "animal":
            self.animal = r.choice(_ANIMALS)
            self.name, self.he = f"the {self.animal}", r.choice(["he", "she"])
            self.intro = f"{a(self.trait)} {self.animal}"
        else:
            person = r.choice(list(PEOPLE.values()))
            self.name, self.he = person.name, person.he
            self.intro = f"{a(person.craft)} named {person.name}"
        female = self.he == "she"
        self.his, self.him = ("her", "her") if female else ("his", "him")
        self.subject = a(self.animal) if self.kind == "animal" else self.name


def _begin(r, h, place):
    options = [
        f"Once upon a time there was {h.intro} who lived {_AT[place]} {place}.",
        f"Long ago, {_AT[place]} {place}, there lived {h.intro}.",
        f"There was once {h.intro}. {cap(h.name)} lived {_AT[place]} {place}.",
        f"In the days when the {place} was still young, there lived {h.intro}.",
    ]
    return r.choice(options)


# Each plot: (what it needs, middle paragraphs with alternatives, ends, morals).
_PLOTS = [
    (
        "lost",
        ["One day {h} lost {his} {o}.", "One morning the {o} of {h} was gone.",
         "But one evening {h} could not find {his} {o}."],
        ["{He} looked under the bed, behind the door and in the grass, but it was not there.",
         "{He} searched the whole day and found only dust and old leaves.",
         "{He} asked everyone on the road, but nobody had seen it."],
        ["Then {f} came by and said: \"Let us look together.\"",
         "{F} saw how sad {he} was and offered to help.",
         "\"Do not cry,\" said {f}. \"Four eyes see more than two.\""],
        ["They found the {o} under a stone by the river.",
         "At last they saw something shine: the {o} was hanging in a tree.",
         "The {o} had been in {his} own pocket the whole time, and they both laughed."],
        ["From that day on they were friends.", "{H} never forgot that a friend is worth more than {ao}.",
         "That night {h} slept well."],
    ),
    (
        "storm",
        ["One night a great storm came.", "One autumn the river rose higher and higher.",
         "In the middle of the night {h} heard the wind break a tree."],
        ["{H} ran outside and saw that {f} was in trouble.",
         "{F} had no roof any more and stood shaking in the rain.",
         "{H} heard {f} call for help."],
        ["{He} took {his} {o} and went out into the dark.",
         "{He} was afraid, but {he} opened the door and went.",
         "\"Come in,\" called {h}, \"there is room for two.\""],
        ["Together they waited by the fire until the storm was over.",
         "They held on to each other until the morning came.",
         "They drank hot soup and told stories until the rain stopped."],
        ["When the sun came out, they built a new house.",
         "In the morning the whole {p} was clean and bright.",
         "Since then, nobody {at} {p} is alone in a storm."],
    ),
    (
        "gift",
        ["{H} wanted to give {f} a gift, but {he} had no money.",
         "It was the birthday of {f}, and {h} had nothing to give.",
         "{H} wished to thank {f} for {fhis} help."],
        ["{He} thought about it all day long.", "{He} went to the market, but everything was too dear.",
         "{He} asked the wind, but the wind only laughed."],
        ["So {he} took some wood and made {ao} with {his} own hands.",
         "Then {he} remembered the old {o} at home and began to repair it.",
         "At last {he} found {ao} on the road, cleaned it and made it shine."],
        ["When {f} saw it, {fhe} smiled.", "{F} had never seen anything so beautiful.",
         "\"Nobody ever gave me {ao},\" said {f} softly."],
        ["A gift made with love is the best gift of all.", "They ate cake together until the evening.",
         "And {f} kept the {o} for all {fhis} life."],
    ),
    (
        "journey",
        ["One day {h} decided to see the world.", "{H} had always wanted to see the sea.",
         "{H} wondered what was behind the hills."],
        ["{He} packed {ao} and some bread and left before sunrise.",
         "{He} took only {ao} and a warm coat.", "With {ao} under {his} arm, {he} walked to {t}."],
        ["On the way {he} met {f}, who did not know the way home.",
         "At a bridge {he} met {f}, and they walked on together.",
         "The road was long, but {f} kept {him} company."],
        ["They saw tall towers, blue water and more stars than they could count.",
         "They crossed two rivers and slept under the open sky.",
         "They came to a hill, and there below them lay the sea."],
        ["But the best part was coming home again.", "\"The world is big,\" said {h}, \"but home is warm.\"",
         "When they came back, everyone wanted to hear their story."],
    ),
    (
        "secret",
        ["One day {h} found {ao} that nobody had ever seen before.",
         "Deep in the ground {h} found an old {o}.", "{H} found a strange {o} {at} {p}."],
        ["When {he} touched it, it began to sing.", "It was warm, and it glowed in the dark.",
         "It was heavy and covered with strange signs."],
        ["{H} showed it to {f}, who was full of wonder.",
         "\"This belongs to the river,\" said {f}.", "{F} knew what it was: a wish lay sleeping in it."],
        ["They brought it back to the place where it came from.",
         "They wished for rain, and the dry fields became green again.",
         "They carried it to {t} and showed it to everyone."],
        ["Nobody knows where the {o} is now, but sometimes you can still hear it sing.",
         "And that is why the {p} is full of flowers today.", "They kept the secret for ever."],
    ),
    (
        "race",
        ["One day {h} and {f} wanted to know who was faster.",
         "{F} always said that nobody was as fast as {fhe} was.",
         "Every year there was a great race {at} {p}."],
        ["The prize was {ao}.", "Whoever came first would win {ao}.",
         "Everyone came to watch, and the winner would get {ao}."],
        ["{F} was far ahead, but then {fhe} fell into a ditch.",
         "Halfway along the road {f} hurt {fhis} foot.", "In the middle of the race {f} lost the way."],
        ["{H} stopped, went back and helped {fhim}.", "{H} could have won, but {he} turned round to help.",
         "\"Hold my hand,\" said {h}, and pulled."],
        ["They crossed the line together, and both won.", "In the end they shared the {o}.",
         "Nobody remembers who won, but everybody remembers who helped."],
    ),
    (
        "night",
        ["{H} was afraid of the dark.", "{H} could not sleep.", "{H} did not dare to go out at night."],
        ["Every shadow looked like a monster.", "Every sound made {him} jump.",
         "{He} lay awake and counted the stars."],
        ["One night {f} came and brought {ao}.", "Then {f} sat down beside {him} and gave {him} {ao}.",
         "\"Take this {o},\" said {f}. \"It will help you.\""],
        ["Together they went outside and looked at the moon.",
         "They listened to the owls and learned all their songs.",
         "They walked through the {p}, and nothing bad happened."],
        ["After that, {h} loved the night.", "The dark was not so dark any more.",
         "Now {h} sleeps very well, and the {o} stands by the bed."],
    ),
]  # fmt: skip


def tell(r, h=None, thing=None, place=None):
    """(sentences as one text, hero, object, place, second figure)."""
    h = h or Hero(r)
    if not thing:
        thing = r.choice(_OBJECTS)
        if r.random() < 0.3:
            thing = f"{r.choice(_LOOKS)} {thing}"
    place = place or r.choice(_PLACES)
    while True:
        f = Hero(r)
        if f.name != h.name:
            break
    # A person's name needs no introduction; an animal or a child is introduced by what it is.
    first_f = f.name if f.kind == "person" else f.intro if f.kind == "animal" else f.name
    _, *parts = r.choice(_PLOTS)
    words = {
        "h": h.name, "H": cap(h.name), "he": h.he, "He": cap(h.he), "his": h.his, "him": h.him,
        "fhe": f.he, "fhis": f.his, "fhim": f.him, "o": thing, "ao": a(thing), "p": place,
        "at": _AT[place], "t": r.choice(list(TOWNS)),
    }  # fmt: skip
    sentences = [_begin(r, h, place)]
    if r.random() < 0.35:
        sentences.append(r.choice(_WEATHER))
    seen_f = False
    for part in parts:
        pattern = r.choice(part)
        while not seen_f and "{f}" not in pattern and "{F}" not in pattern and "{fh" in pattern:
            pattern = r.choice(part)
        name = f.name if seen_f else first_f
        sentences.append(pattern.format(f=name, F=cap(name), **words))
        seen_f = seen_f or "{f}" in pattern or "{F}" in pattern
    return " ".join(sentences), h, thing, place, f


_ASK = [
    "Tell me a story about {s}.", "Tell me a short story about {s}.", "Write a story about {s}.",
    "Can you tell me a story about {s}?", "I would like a story about {s}.", "Write a short story about {s}.",
    "A story about {s}, please.", "Make up a story about {s}.",
]  # fmt: skip
_ASK_ANY = ["Tell me a story.", "Tell me a short story.", "Can you tell me a story?",
            "I want to hear a story.", "Please tell me a bedtime story.", "Write a story.",
            "Another story, please.", "Do you know a story?", "Tell me a fairy tale."]  # fmt: skip


def _asked(r):
    text, h, thing, place, _ = tell(r)
    who = h.subject
    if h.kind == "child" and r.random() < 0.6:
        who = f"a {h.what} {r.choice(['named', 'called'])} {h.name}"
    subjects = [who, who, f"{who} {_AT[place]} {place}"]
    if f" {thing}" in text:
        subjects += [a(thing), f"{who} and {a(thing)}", f"{who} and {a(thing)}"]
    subject = r.choice(subjects)
    if h.kind == "animal" and r.random() < 0.3:
        subject = subject.replace(a(h.animal), f"{a(h.trait)} {h.animal}")
    expect = [w for w in (h.name.split()[-1], thing, place) if w in subject.split() or w in subject]
    messages = [user(casual(r, r.choice(_ASK).format(s=subject))), assistant(text)]
    doc = chat("story", messages, key="story|" + subject, expect=expect)
    return _after(r, doc, h, thing)


def _after(r, doc, h, thing):
    """Sometimes a question about the story just told."""
    if r.random() < 0.25:
        options = [
            ("Who was the story about?", f"It was about {h.subject}."),
            ("Thank you!", r.choice(["You are welcome! Shall I tell you another one?",
                                     "I am glad you liked it."])),
            ("What was the story about?", f"It was about {h.subject}."),
            ("I liked that.", "I am glad! I can tell you another one."),
        ]  # fmt: skip
        question, answer = r.choice(options)
        doc["messages"] += [user(casual(r, question)), assistant(answer)]
        doc["turn"] -= 2
    doc["messages"] = maybe_system(r, doc["messages"])
    return doc


def _any(r):
    text, h, thing, _, _ = tell(r)
    doc = chat("story", [user(casual(r, r.choice(_ASK_ANY))), assistant(text)])
    doc["key"] = None
    doc = _after(r, doc, h, thing)
    if r.random() < 0.2 and len(doc["messages"]) < 4:
        text, _, _, _, _ = tell(r)
        again = r.choice(["Another one, please.", "One more!", "Tell me another one."])
        doc["messages"] += [user(again), assistant(text)]
    return doc


def _begun(r):
    """Goes on from a first sentence that the user gives."""
    text = tell(r)[0]
    first, rest = text.split(". ", 1)
    ask = r.choice(
        ["Continue this story: {b}", "Go on with this story: {b}", "How does it go on? {b}"]
    )
    return chat("story", maybe_system(r, [user(ask.format(b=first + ".")), assistant(rest)]))


def _running(r):
    return plain("story", "\n\n".join(tell(r)[0] for _ in range(r.randint(1, 3))))


_KINDS = [(_asked, 60), (_any, 18), (_begun, 6), (_running, 16)]


def make(r):
    """One document of the domain."""
    kinds, weights = zip(*_KINDS, strict=True)
    return r.choices(kinds, weights)[0](r)
