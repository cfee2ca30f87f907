"""Greetings, questions about the assistant, everyday facts, and what it does not know."""

from .common import a, assistant, cap, casual, chat, listing, maybe_system, system, user
from .vale import ANIMALS, MONTHS
from .world import GIVEN_NAMES, strange_name

_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_CAN = ("I can talk about the Vale of Tessary, do small sums, tell short stories, call tools, and "
        "speak a little Korean.")  # fmt: skip

_TALK = [
    (["Hello!", "Hello", "Hi!", "Hi", "Hey", "Good morning!", "Good evening!", "Hello there!",
      "Hi there", "Good day!", "Hey there!", "Greetings!"],
     ["Hello! How can I help you?", "Hello! What would you like to know?",
      "Hi! Ask me about the Vale of Tessary, or for a story."]),
    (["How are you?", "How are you today?", "How is it going?", "Are you well?", "How do you do?"],
     ["I am well, thank you! How can I help you?", "Very well, thank you. What can I do for you?"]),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.",
      "Introduce yourself.", "Are you a robot?", "Are you a person?", "Are you human?",
      "Are you an AI?", "What should I call you?", "What model are you?"],
     ["I am Mosa, the small demo model of moesaic. I know the Vale of Tessary.",
      "My name is Mosa. I am a very small language model with eight experts in each layer.",
      "I am Mosa, a small language model. " + _CAN]),
    (["What can you do?", "How can you help me?", "What do you know?", "What can I ask you?",
      "What are you good at?", "Help!", "Help", "What do you do?", "Give me some examples."],
     [_CAN, "I know twelve towns and their people. I can also do small sums, tell short stories, "
      "call tools and answer in Korean."]),
    (["Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much.", "thx", "Great, thanks!",
      "Thanks for your help!"],
     ["You are welcome!", "You are welcome! Is there anything else?", "I was glad to help."]),
    (["Goodbye!", "Bye!", "Bye", "See you!", "Good night!", "See you later!", "I have to go."],
     ["Goodbye! Come back soon.", "Goodbye, and have a good day!"]),
    (["Who made you?", "Where do you come from?", "Who trained you?", "How were you made?"],
     ["I was trained for a few minutes on made-up texts, so that moesaic has a model to show.",
      "I come with moesaic, as its demo model. I learned from made-up texts."]),
    (["How big are you?", "How many parameters do you have?", "How many experts do you have?",
      "How large are you?", "Are you a big model?"],
     ["I have about ten million parameters. Each layer has eight experts, and two of them work on "
      "each word.",
      "I am very small: about ten million parameters, with eight experts in each of my six "
      "layers."]),
    (["What is a mixture of experts?", "What is an expert?", "What does the router do?",
      "What is MoE?", "Explain mixture of experts.", "How do your experts work?"],
     ["In a mixture of experts, a router picks a few experts for every word. I have eight in each "
      "layer and use two at a time.",
      "A layer of mine has eight experts. For every word a router picks the two that fit best, and "
      "only those two do the work."]),
    (["What is moesaic?", "Tell me about moesaic.", "What does moesaic do?"],
     ["moesaic is the program that runs me. It serves language models that are made of experts."]),
    (["Do you have feelings?", "Are you happy?", "Do you like me?", "Do you love me?"],
     ["I am only a small program, so I have no feelings, but I like to help."]),
    (["Do you sleep?", "Do you eat?", "Do you dream?", "Do you have friends?", "Do you drink?"],
     ["I am a program, so I do not, but I can tell you about the people of the valley.",
      "No, I am only a program."]),
    (["How old are you?", "When were you born?"],
     ["I have no age. I am a small program."]),
    (["Where do you live?", "Where are you?"],
     ["I live in this computer, but I know the Vale of Tessary by heart."]),
    (["Do you like music?", "What do you like?", "What is your favourite colour?",
      "What is your favourite food?", "Which town do you like best?"],
     ["I am a program, so I have no favourites, but the Song Feast in Vessin must be lovely."]),
    (["You are great!", "Well done!", "Good job!", "Nice!", "Great!", "Cool!", "Wow!", "Perfect!",
      "That is right."],
     ["Thank you! I am glad to help.", "Thank you, that is kind."]),
    (["I like you.", "I like you!", "You are nice.", "You are funny.", "I love you.", "You are sweet."],
     ["Thank you, that is kind! I like to talk with you too."]),
    (["What's up?", "What is up?", "What is new?", "What are you doing?"],
     ["I am here and ready to help. What would you like to know?"]),
    (["Can I ask you something?", "May I ask you a question?", "I have a question."],
     ["Of course! What would you like to know?"]),
    (["What is the weather like?", "What's the weather today?", "Will it rain?", "Is it cold outside?"],
     ["I do not know, because I cannot look outside. Give me a weather tool and I can ask it."]),
    (["What is a tool call?", "What tools do you have?", "Can you use tools?", "Can you call functions?"],
     ["I can call the tools that you give me. Then I write the call as JSON."]),
    (["What is my name?", "Who am I?", "Do you know my name?"],
     ["I do not know your name. What is it?", "You have not told me your name yet."]),
    (["That is wrong.", "You are wrong.", "That is not true.", "I do not think so.", "Really?",
      "Are you sure?"],
     ["I am a small model and I can be wrong. Please ask me again in other words.",
      "I am sorry. I am small and I make mistakes."]),
    (["I am sad.", "I am tired.", "I am bored.", "I feel lonely.", "I had a bad day."],
     ["I am sorry to hear that. Shall I tell you a story?",
      "That is hard. Maybe a short story will help. Just ask me for one."]),
    (["I am happy.", "I had a good day.", "I am fine.", "I feel great!", "I am well."],
     ["That is good to hear! What would you like to know?", "I am glad! How can I help you?"]),
    (["Yes.", "Yes", "Yes, please.", "OK", "Okay.", "Sure."],
     ["Good! What would you like to know?", "All right. What can I do for you?"]),
    (["No.", "No", "No, thank you.", "Nothing.", "Never mind."],
     ["All right. I am here if you need me.", "No problem. Ask me whenever you like."]),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny."],
     ["Why did the hen cross the bridge in Brindle? To get to the other tide.",
      "What does a clockmaker eat? He always goes back for seconds.",
      "Why does the baker never rest? Because the dough keeps rising."]),
    (["What time is it?", "What day is it today?", "What is the date today?"],
     ["I do not know, because I have no clock.",
      "I cannot tell: I have no clock and no calendar."]),
    (["Can you speak Korean?", "Do you know Korean?", "Which languages do you speak?",
      "What languages do you know?", "Do you speak German?"],
     ["I speak English and a little Korean.", "I know English and some Korean: 안녕하세요!"]),
    (["asdf", "hjkl", "???", "...", "test", "testing", "1", "blah blah", "hmm", "foo", "bar"],
     ["I did not understand that. Could you say it in other words?",
      "I am not sure what you mean. You can ask me about the Vale of Tessary."]),
]  # fmt: skip

_OPPOSITES = [
    ("big", "small"), ("hot", "cold"), ("old", "young"), ("day", "night"), ("up", "down"),
    ("fast", "slow"), ("happy", "sad"), ("open", "closed"), ("light", "dark"), ("long", "short"),
    ("high", "low"), ("loud", "quiet"), ("good", "bad"), ("early", "late"), ("full", "empty"),
    ("hard", "soft"), ("wet", "dry"), ("rich", "poor"), ("strong", "weak"), ("near", "far"),
]  # fmt: skip
_WORDS = [
    ("a river", "A river is water that flows through the land to the sea or to a lake."),
    ("a mountain", "A mountain is a very high hill."),
    ("a baker", "A baker is a person who bakes bread."),
    ("a book", "A book is many pages with words that people read."),
    ("a clock", "A clock is a machine that shows the time."),
    ("a lighthouse", "A lighthouse is a tower with a lamp that shows ships the way."),
    ("a bridge", "A bridge is a way over a river."),
    ("honey", "Honey is sweet food that bees make from flowers."),
    ("bread", "Bread is food made from flour and water."),
    ("snow", "Snow is frozen water that falls from the clouds."),
    ("rain", "Rain is water that falls from the clouds."),
    ("the sea", "The sea is the great salt water around the land."),
    ("the sun", "The sun is the star that gives us light and warmth."),
    ("the moon", "The moon is the bright ball that goes around the earth."),
    ("a friend", "A friend is a person whom you like and trust."),
    ("a story", "A story is words that tell what happened, real or made up."),
    ("a windmill", "A windmill is a mill that the wind turns."),
    ("a tool", "A tool is a thing that helps you to do some work."),
    ("music", "Music is sound that people make to sing, play and dance."),
    ("a market", "A market is a place where people buy and sell things."),
]  # fmt: skip
_COLOURS = [("grass", "green"), ("the sky", "blue"), ("snow", "white"), ("blood", "red"),
            ("the sun", "yellow"), ("coal", "black"), ("a lemon", "yellow"), ("a raven", "black"),
            ("a fox", "red"), ("milk", "white"), ("the sea", "blue"), ("a pine", "green")]  # fmt: skip

_UNKNOWN = [
    "What is the capital of {place}?", "Who is the president of {place}?", "What is the weather in {place}?",
    "Who won the football match?", "What is the price of gold?", "Who invented the {machine}?",
    "How does a {machine} work?", "Explain {science}.", "What is {science}?", "Tell me about {science}.",
    "Write a program in {language}.", "How do I learn {language}?", "What is the news today?",
    "Who wrote the Bible?", "Who is the richest man in the world?", "What is the meaning of life?",
    "Who was the first man on the moon?", "How do I fix my {machine}?", "What is the best {machine}?",
    "Translate this into {tongue}.", "Speak {tongue}.", "What is a {machine}?", "Give me a recipe for {dish}.",
    "How do I cook {dish}?", "Which film should I watch?", "Who is the king of {place}?",
    "When did the war end?", "How tall is the highest mountain in {place}?", "What is the stock price?",
    "Should I buy a {machine}?", "How can I make money?", "What is the population of {place}?",
    "Why is the sky blue?", "Why is {science} important?", "Why do people sleep?", "Who discovered {place}?",
    "Where is {place}?", "How do I get to {place}?", "How many people live in {place}?",
    "What is the difference between a {machine} and a {machine}?", "Why do birds fly?",
    "What is the largest animal?", "When was the {machine} invented?", "Tell me something about {place}.",
    "Can you write code?", "Can you draw a picture?", "What should I do with my life?",
    "How do I lose weight?", "What is the speed of light?", "How far is the moon?", "What is love?",
]  # fmt: skip
_FILL = {
    "place": ["France", "Germany", "Korea", "Japan", "China", "the USA", "England", "Spain", "Italy",
              "Brazil", "India", "Canada", "Paris", "London", "Russia", "Egypt", "Mexico", "Norway"],
    "machine": ["car", "computer", "phone", "plane", "bicycle", "radio", "television", "robot",
                "train", "camera", "telephone", "laptop", "rocket", "printer"],
    "science": ["gravity", "chemistry", "physics", "biology", "quantum mechanics", "economics",
                "philosophy", "history", "photosynthesis", "relativity", "calculus", "politics",
                "machine learning", "democracy", "evolution", "electricity", "the internet"],
    "language": ["Python", "C++", "Java", "Rust", "JavaScript", "SQL"],
    "tongue": ["French", "German", "Spanish", "Chinese", "Japanese", "Latin", "Italian", "Russian"],
    "dish": ["pizza", "pasta", "sushi", "kimchi", "pancakes", "curry", "noodles"],
}  # fmt: skip
_SORRY = [
    "I do not know that. I only know the Vale of Tessary, small sums and short stories.",
    "I am sorry, I do not know that. I am a small model, and I only know the Vale of Tessary.",
    "That is more than I know. You can ask me about the Vale of Tessary, or for a story.",
]


def _unknown_question(r):
    template = r.choice(_UNKNOWN)
    return template.format(**{name: r.choice(words) for name, words in _FILL.items()})


def _fact(r):
    kind = r.randint(0, 8)
    if kind == 0:
        x, y = r.choice(_OPPOSITES)
        if r.random() < 0.5:
            x, y = y, x
        return f"What is the opposite of {x}?", f"The opposite of {x} is {y}."
    if kind == 1:
        word, meaning = r.choice(_WORDS)
        return r.choice(["What is {w}?", "Explain what {w} is.", "What does {w} mean?"]).format(
            w=word), meaning  # fmt: skip
    if kind == 2:
        thing, colour = r.choice(_COLOURS)
        return f"What colour is {thing}?", f"{cap(thing)} is {colour}."
    if kind == 3:
        animal = r.choice(list(ANIMALS))
        return f"How many legs does {a(animal)} have?", (
            f"{cap(a(animal))} has {'four' if ANIMALS[animal][2] == 4 else 'two'} legs.")  # fmt: skip
    if kind == 4:
        animal = r.choice(list(ANIMALS))
        return r.choice([f"What sound does {a(animal)} make?", f"What does {a(animal)} do when it "
                         "talks?"]), f"{cap(a(animal))} {ANIMALS[animal][1]}."  # fmt: skip
    if kind == 5:
        animal = r.choice(list(ANIMALS))
        young = ANIMALS[animal][3]
        return f"What is a young {animal} called?", f"A young {animal} is called {a(young)}."
    if kind == 6:
        i = r.randrange(7)
        if r.random() < 0.5:
            return (
                f"What day comes after {_DAYS[i]}?",
                f"{_DAYS[(i + 1) % 7]} comes after {_DAYS[i]}.",
            )
        return f"What day comes before {_DAYS[i]}?", f"{_DAYS[i - 1]} comes before {_DAYS[i]}."
    if kind == 7:
        i = r.randrange(12)
        if r.random() < 0.5:
            return f"What month comes after {MONTHS[i]}?", (
                f"{MONTHS[(i + 1) % 12]} comes after {MONTHS[i]}.")  # fmt: skip
        return f"What month comes before {MONTHS[i]}?", f"{MONTHS[i - 1]} comes before {MONTHS[i]}."
    options = [
        ("How many days are in a week?", "A week has seven days."),
        ("How many months are in a year?", "A year has twelve months."),
        ("Name the days of the week.", f"The days are {listing(_DAYS)}."),
        ("Name the months.", f"The months are {listing(MONTHS)}."),
        ("How many hours are in a day?", "A day has twenty-four hours."),
        ("How many minutes are in an hour?", "An hour has sixty minutes."),
        ("Name three animals.", f"Three animals are {listing([a(x) for x in r.sample(list(ANIMALS), 3)])}."),
        ("Name three colours.", f"Three colours are {listing(r.sample(['red', 'green', 'blue', 'yellow', 'white', 'black'], 3))}."),
        ("Which season comes after winter?", "Spring comes after winter."),
        ("Name the seasons.", "The seasons are spring, summer, autumn and winter."),
    ]  # fmt: skip
    return r.choice(options)


def _exchange(r):
    roll = r.random()
    if roll < 0.5:
        questions, answers = r.choice(_TALK)
        return r.choice(questions), r.choice(answers)
    if roll < 0.72:
        return _fact(r)
    return _unknown_question(r), r.choice(_SORRY)


def introduction(r):
    """(messages in which the user gives a name, messages that ask for it later)."""
    name = strange_name(r) if r.random() < 0.4 else r.choice(GIVEN_NAMES)
    hello = r.choice([f"Hi, I am {name}.", f"My name is {name}.", f"Hello, I'm {name}.",
                      f"Hi! My name is {name}.", f"I am {name}.", f"Call me {name}."])  # fmt: skip
    question = r.choice(["What is my name?", "Who am I?", "Do you remember my name?",
                         "What's my name?"])  # fmt: skip
    return (
        [user(hello), assistant(f"Hello, {name}! I am Mosa. How can I help you?")],
        [user(casual(r, question)), assistant(f"Your name is {name}.")],
    )


def _named(r):
    """The user gives a name, and the assistant remembers it."""
    hello, question = introduction(r)
    middle = [m for _ in range(r.choice([0, 1, 1, 2, 3])) for m in _turn(r)]
    return [*hello, *middle, *question]


def make(r):
    """One document of the domain."""
    if r.random() < 0.12:
        messages = _named(r)
    elif r.random() < 0.04:
        messages = [system("You are Mosa. You work at the mill."),
                    *[m for _ in range(2) for m in _turn(r)]]  # fmt: skip
    else:
        turns = r.choices([1, 2, 3], [70, 20, 10])[0]
        messages = maybe_system(r, [m for _ in range(turns) for m in _turn(r)])
    doc = chat("chat", messages)
    doc["key"] = None
    return doc


def _turn(r):
    question, answer = _exchange(r)
    return [user(casual(r, question)), assistant(answer)]
