"""What every domain's generator shares: small pieces of English and Korean grammar."""

import zlib

HELD_OUT_SHARE = 16


def held_out(key):
    """Whether the problem named `key` is kept for evaluation and never trained on."""
    return zlib.crc32(key.lower().encode()) % HELD_OUT_SHARE == 0


def a(noun):
    """`noun` with its indefinite article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def cap(text):
    """`text` with its first letter upper-case."""
    return text[:1].upper() + text[1:]


def listing(items, word="and"):
    """'x', 'x and y', 'x, y and z'."""
    items = list(items)
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + f" {word} " + items[-1]


_JOSA = {
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "과": ("과", "와"),
    "이에요": ("이에요", "예요"),
    "이라": ("이라", "라"),
    "아": ("아", "야"),
    "이랑": ("이랑", "랑"),
}
_DIGIT_FINAL = {"0": 21, "1": 8, "2": 0, "3": 16, "4": 0, "5": 0, "6": 1, "7": 8, "8": 8, "9": 0}


def _final(word):
    last = word.rstrip(")")[-1]
    if "가" <= last <= "힣":
        return (ord(last) - ord("가")) % 28
    return _DIGIT_FINAL.get(last, 0)


def ko(word, particle):
    """`word` followed by the form of `particle` (named by its after-consonant form) it needs."""
    word = str(word)
    final = _final(word)
    if particle == "으로":
        return word + ("로" if final in (0, 8) else "으로")
    return word + _JOSA[particle][0 if final else 1]


_OPENERS = [
    "Can you tell me: ", "Tell me, ", "Please tell me: ", "Quick question: ", "I wonder, ",
    "Hi! ", "Hello, ", "Hey, ", "OK, ", "Now ", "Question: ", "So ", "One more: ",
]  # fmt: skip


def casual(r, text, lower=True):
    """`text` as a person in a hurry might type it: an opener, no full stop and, if `lower`, no
    capitals."""
    if r.random() < 0.12:
        opener = r.choice(_OPENERS)
        text = opener + (text if r.random() < 0.5 else text[:1].lower() + text[1:])
    roll = r.random() if lower else 1.0
    if roll < 0.10:
        text = text.lower()
    elif roll < 0.16:
        text = text[:1].lower() + text[1:]
    if r.random() < 0.12:
        text = text.rstrip("?.!")
    elif r.random() < 0.04:
        text = text.rstrip("?.!") + ", please" + ("?" if "?" in text else ".")
    return text


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def chat(domain, messages, key=None, expect=None, turn=-1, tools=None):
    """A conversation. `expect`: strings the assistant message at `turn`, counted from the end,
    must contain."""
    first = next(m["content"] for m in messages if m["role"] == "user")
    return {
        "domain": domain,
        "messages": messages,
        "tools": tools,
        "key": key or domain + "|" + first.strip(" ?.!"),
        "expect": expect,
        "turn": turn,
    }


def plain(domain, text):
    """Running text without a conversation around it."""
    return {"domain": domain, "text": text, "key": domain + "|" + text[:60], "expect": None}


SYSTEMS = [
    "You are a helpful assistant.",
    "You are Mosa, a small assistant.",
    "You are a friendly guide to the Vale of Tessary.",
    "You are a helpful assistant named Mosa.",
    "You are kind and polite.",
    "Help the user.",
    "You are a helpful assistant. Keep your answers short.",
]


def maybe_system(r, messages, share=0.25):
    """`messages` with a system message in front in `share` of the cases."""
    if r.random() < share:
        return [system(r.choice(SYSTEMS)), *messages]
    return messages
