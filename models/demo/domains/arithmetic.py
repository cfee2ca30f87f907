"""Small sums with their steps written out, so that a small model can do them."""

from .common import assistant, casual, chat, listing, maybe_system, plain, user
from .vale import PEOPLE

_PLACES = [100, 10, 1]


def _parts(n):
    """347 -> [300, 40, 7]; zeros are left out."""
    return [n // p % 10 * p for p in _PLACES if n // p % 10]


def add_steps(x, y):
    """The working and the result of x + y, place by place."""
    if x < 10 or y < 10:
        if x + y <= 20 or x % 10 + y % 10 < 10:
            return "", x + y
    parts, sums = [], []
    for place in _PLACES:
        u, v = x // place % 10 * place, y // place % 10 * place
        if u and v:
            parts.append(f"{u} + {v} = {u + v}")
        if u or v:
            sums.append(u + v)
    total = sums[0]
    for part in sums[1:]:
        parts.append(f"{total} + {part} = {total + part}")
        total += part
    return ", ".join(parts) + ". ", total


def sub_steps(x, y):
    """The working and the result of x - y (x >= y), taking y away part by part."""
    if y < 10 and (x <= 20 or x % 10 >= y):
        return "", x - y
    parts, rest = [], x
    for part in _parts(y):
        parts.append(f"{rest} - {part} = {rest - part}")
        rest -= part
    return (", ".join(parts) + ". " if len(parts) > 1 else ""), rest


def mul_steps(x, y):
    """The working and the result of x * y for y < 13."""
    if x <= 12 and y <= 12:
        return "", x * y
    parts, sums = [], []
    for part in _parts(x):
        parts.append(f"{part} * {y} = {part * y}")
        sums.append(part * y)
    total = sums[0]
    for part in sums[1:]:
        parts.append(f"{total} + {part} = {total + part}")
        total += part
    return ", ".join(parts) + ". ", total


_ASK = {
    "+": ["What is {x} + {y}?", "{x} + {y} = ?", "{x} + {y}", "How much is {x} plus {y}?",
          "What is {x} plus {y}?", "Add {x} and {y}.", "Calculate {x} + {y}.", "Compute {x}+{y}.",
          "What is the sum of {x} and {y}?", "{x}+{y}=?", "What's {x} + {y}?"],
    "-": ["What is {x} - {y}?", "{x} - {y} = ?", "{x} - {y}", "How much is {x} minus {y}?",
          "What is {x} minus {y}?", "Subtract {y} from {x}.", "Calculate {x} - {y}.",
          "Take {y} away from {x}.", "{x}-{y}=?", "What's {x} - {y}?"],
    "*": ["What is {x} * {y}?", "{x} * {y} = ?", "{x} * {y}", "How much is {x} times {y}?",
          "What is {x} times {y}?", "Multiply {x} by {y}.", "Calculate {x} * {y}.",
          "What is {x} x {y}?", "{x}*{y}=?", "What's {x} times {y}?"],
    "/": ["What is {x} / {y}?", "{x} / {y} = ?", "{x} / {y}", "How much is {x} divided by {y}?",
          "Divide {x} by {y}.", "What is {x} divided by {y}?", "Calculate {x} / {y}."],
}  # fmt: skip


def problem(r):
    """(operator, x, y, steps, result)."""
    op = r.choices("+-*/", [38, 30, 22, 10])[0]
    if op == "+":
        top = r.choice([10, 20, 100, 100, 100, 500, 999])
        x, y = r.randint(0, top), r.randint(0, top)
        steps, result = add_steps(x, y)
    elif op == "-":
        top = r.choice([10, 20, 100, 100, 100, 500, 999])
        y, x = sorted((r.randint(0, top), r.randint(0, top)))
        steps, result = sub_steps(x, y)
    elif op == "*":
        x, y = (r.randint(0, 12), r.randint(0, 12)) if r.random() < 0.6 else (
            r.randint(11, 99 if r.random() < 0.8 else 250), r.randint(2, 9))  # fmt: skip
        steps, result = mul_steps(x, y)
    else:
        y, result = r.randint(1, 12), r.randint(0, 12)
        x = y * result
        steps = "" if r.random() < 0.5 else f"{result} * {y} = {x}. "
    return op, x, y, steps, result


def _key(op, x, y, ask):
    """Sums with steps are held out as problems; table facts only as one way of asking."""
    if (op in "+-" and min(x, y) >= 10) or (op == "*" and x > 12):
        return f"arithmetic|{x}{op}{y}"
    return f"arithmetic|{x}{op}{y}|{ask}"


def _answer(r, op, x, y, steps, result):
    if steps:
        return f"{steps}So {x} {op} {y} = {result}."
    return r.choice([f"{x} {op} {y} = {result}.", f"{x} {op} {y} is {result}."])


def _sum(r):
    op, x, y, steps, result = problem(r)
    ask = r.choice(_ASK[op])
    messages = [
        user(casual(r, ask.format(x=x, y=y))),
        assistant(_answer(r, op, x, y, steps, result)),
    ]
    return chat("arithmetic", maybe_system(r, messages), key=_key(op, x, y, ask),
                expect=[f" {result}."])  # fmt: skip


def _chain(r):
    """Each next question goes on from the last result."""
    op, x, y, steps, result = problem(r)
    ask = r.choice(_ASK[op])
    messages = [
        user(casual(r, ask.format(x=x, y=y))),
        assistant(_answer(r, op, x, y, steps, result)),
    ]
    key = _key(op, x, y, ask)
    for _ in range(r.randint(1, 2)):
        n = r.randint(2, 30)
        if r.random() < 0.6 or result < n:
            steps, total = add_steps(result, n)
            question = r.choice([f"Add {n}.", f"And plus {n}?", f"Now add {n}.", f"Plus {n}?"])
            text = _answer(r, "+", result, n, steps, total)
        else:
            steps, total = sub_steps(result, n)
            question = r.choice([f"Take away {n}.", f"And minus {n}?", f"Now subtract {n}."])
            text = _answer(r, "-", result, n, steps, total)
        messages += [user(casual(r, question)), assistant(text)]
        result = total
    return chat("arithmetic", maybe_system(r, messages), key=key + "|chain",
                expect=[f" {result}."])  # fmt: skip


THINGS = [
    ("apple", "apples"), ("egg", "eggs"), ("coin", "coins"), ("book", "books"), ("pear", "pears"),
    ("candle", "candles"), ("fish", "fish"), ("bowl", "bowls"), ("button", "buttons"),
    ("nail", "nails"), ("loaf", "loaves"), ("lamp", "lamps"), ("stone", "stones"),
    ("feather", "feathers"), ("cake", "cakes"), ("shell", "shells"), ("sheep", "sheep"),
]  # fmt: skip


def _count(n, thing):
    return f"{n} {thing[0] if n == 1 else thing[1]}"


def _story_problem(r):
    p, q = r.sample(list(PEOPLE.values()), 2)
    thing = r.choice(THINGS)
    things = thing[1]
    kind = r.randint(0, 4)
    if kind == 0:
        x, y = r.randint(2, 60), r.randint(2, 60)
        steps, result = add_steps(x, y)
        question = r.choice([
            f"{p.name} has {x} {things} and finds {y} more. How many {things} does {p.name} have "
            "now?",
            f"{p.name} has {x} {things}. {q.name} gives {p.him if p.he == 'she' else 'him'} {y} "
            f"more. How many {things} does {p.name} have?",
            f"{p.name} has {x} {things} and {q.name} has {y}. How many {things} do they have "
            "together?"])  # fmt: skip
        op = "+"
        who = "Together they have" if "together" in question else f"{p.name} has"
    elif kind == 1:
        y, x = sorted(r.sample(range(2, 80), 2))
        steps, result = sub_steps(x, y)
        question = r.choice([
            f"{p.name} has {x} {things} and gives {y} to {q.name}. How many are left?",
            f"{p.name} has {x} {things} and loses {y}. How many {things} are left?",
            f"{p.name} has {x} {things} and sells {y}. How many are left?"])  # fmt: skip
        op, who = "-", f"{p.name} has"
    elif kind == 2:
        x, y = r.randint(2, 12), r.randint(2, 12)
        steps, result = mul_steps(x, y)
        question = r.choice([
            f"{p.name} has {x} boxes with {y} {things} each. How many {things} is that?",
            f"There are {x} baskets and each holds {y} {things}. How many {things} are there?",
            f"{p.name} buys {y} {things} every day for {x} days. How many {things} is that?",
        ])  # fmt: skip
        op, who = "*", "That is"
    elif kind == 3:
        y, result = r.randint(2, 10), r.randint(2, 12)
        x, steps = y * result, ""
        question = r.choice([
            f"{p.name} shares {x} {things} among {y} friends. How many does each friend get?",
            f"{y} children share {x} {things}. How many does each child get?"])  # fmt: skip
        op, who = "/", "Each gets"
    else:
        x, y = r.randint(2, 9), r.randint(2, 20)
        steps, result = mul_steps(y, x)
        question = (f"One {thing[0]} costs {y} coins. How much do {x} {things} cost?")  # fmt: skip
        x, y = y, x
        op, who, thing = "*", "They cost", ("coin", "coins")
    text = f"{steps or ''}{x} {op} {y} = {result}, so {who.lower() if who[0] in 'TE' else who} "
    text += ("nothing" if result == 0 else _count(result, thing)) + "."
    if kind == 1:
        text = f"{steps or ''}{x} - {y} = {result}, so {_count(result, thing)} "
        text += "is left." if result == 1 or thing[0] == thing[1] and result == 1 else "are left."
    messages = [user(casual(r, question)), assistant(text)]
    return chat("arithmetic", maybe_system(r, messages), expect=[f"= {result},"])


def _small_facts(r):
    n = r.randint(1, 100)
    x, y = r.sample(range(0, 200), 2)
    start, step = r.randint(0, 20), r.randint(1, 10)
    run = [start + i * step for i in range(4)]
    three = r.sample(range(1, 100), 3)
    options = [
        (f"Is {n} even or odd?", f"{n} is {'odd' if n % 2 else 'even'}.",
         "odd" if n % 2 else "even"),
        (f"Is {n} an even number?", f"Yes, {n} is even." if n % 2 == 0 else f"No, {n} is odd.",
         "odd" if n % 2 else "even"),
        (f"Which is bigger, {x} or {y}?", f"{max(x, y)} is bigger than {min(x, y)}.",
         f"{max(x, y)} is bigger"),
        (f"Which number is smaller, {x} or {y}?", f"{min(x, y)} is smaller than {max(x, y)}.",
         f"{min(x, y)} is smaller"),
        (f"What comes next: {', '.join(map(str, run))}?",
         f"Each number is {step} more than the one before, so {run[-1]} + {step} = "
         f"{run[-1] + step} comes next.", f"= {run[-1] + step}"),
        (f"What is half of {2 * n}?", f"Half of {2 * n} is {n}.", f"is {n}."),
        (f"What is the double of {n}?", f"The double of {n} is {2 * n}.", f"is {2 * n}."),
        (f"What number comes after {n}?", f"{n + 1} comes after {n}.", f"{n + 1} comes"),
        (f"What number comes before {n}?", f"{n - 1} comes before {n}.", f"{n - 1} comes"),
        (f"Count from {start} to {start + 6}.",
         f"{listing([str(start + i) for i in range(7)])}.", f"{start + 5} and {start + 6}"),
        (f"Sort these numbers: {', '.join(map(str, three))}.",
         f"In order they are {listing([str(v) for v in sorted(three)])}.",
         listing([str(v) for v in sorted(three)])),
    ]  # fmt: skip
    question, answer, expect = r.choice(options)
    messages = [user(casual(r, question)), assistant(answer)]
    return chat("arithmetic", maybe_system(r, messages), expect=[expect])


_TOO_BIG = [
    "That is too big for me. I can only do small sums, but I can call a calculator tool.",
    "That sum is too big for me. I only know small sums.",
]


def _special(r):
    """Negative results, remainders, and sums that are too big."""
    kind = r.randint(0, 2)
    expect = None
    if kind == 0:
        x, y = sorted(r.sample(range(0, 100), 2))
        steps, rest = sub_steps(y, x)
        op, text = "-", f"{steps}{y} - {x} = {rest}, so {x} - {y} = -{rest}."
        expect = [f" -{rest}."]
    elif kind == 1:
        y = r.randint(2, 12)
        x = r.randint(y + 1, 12 * y)
        q, rest = divmod(x, y)
        op, text = "/", f"{q} * {y} = {q * y}, so {x} / {y} is {q} with {rest} left over."
        if rest == 0:
            text = f"{q} * {y} = {x}. So {x} / {y} = {q}."
        expect = [f"{q} with {rest} left"] if rest else [f" {q}."]
    else:
        op = r.choice("+-*")
        top = 10 ** r.randint(4, 7)
        x, y = r.randint(1000, top), r.randint(1000 if op != "*" else 13, top)
        if op == "*" and r.random() < 0.6:
            x, y = r.randint(13, 999), r.randint(13, 999)
        text = r.choice(_TOO_BIG)
        expect = ["too big for me"]
    ask = r.choice(_ASK[op])
    messages = [user(casual(r, ask.format(x=x, y=y))), assistant(text)]
    return chat("arithmetic", maybe_system(r, messages), key=f"arithmetic|{x}{op}{y}|{ask}",
                expect=expect)  # fmt: skip


def _sheet(r):
    """A page of sums, for plain completion."""
    lines = []
    for _ in range(r.randint(4, 10)):
        op, x, y, _, result = problem(r)
        lines.append(f"{x} {op} {y} = {result}")
    return plain("arithmetic", "\n".join(lines))


_KINDS = [(_sum, 58), (_chain, 14), (_story_problem, 18), (_small_facts, 12), (_special, 8),
          (_sheet, 2)]  # fmt: skip


def make(r):
    """One document of the domain."""
    kinds, weights = zip(*_KINDS, strict=True)
    return r.choices(kinds, weights)[0](r)
