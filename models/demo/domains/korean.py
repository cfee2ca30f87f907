"""The same world, small talk, sums and little stories in Korean."""

from .arithmetic import add_steps, sub_steps
from .common import assistant, chat, ko, plain, system, user
from .vale import (
    ANIMALS,
    CRAFTS,
    DISTANCE,
    FESTIVALS,
    FOODS,
    KNOWN_FOR,
    LANDSCAPES,
    NEIGHBOURS,
    PEOPLE,
    RIVERS,
    TOWNS,
    residents,
)


def _list(words):
    """'가, 나, 다'."""
    return ", ".join(words)


def _person(p):
    n, town, friend = p.ko, TOWNS[p.town].ko, PEOPLE[p.friend].ko
    _, craft, does = CRAFTS[p.craft]
    pet, food = ANIMALS[p.pet][0], FOODS[p.food]
    return [
        ([f"{ko(n, '은')} 어디에 살아요?", f"{ko(n, '은')} 어디에 삽니까?", f"{n}의 집은 어디에 있나요?",
          f"{ko(n, '이')} 사는 마을은 어디인가요?", f"{n} 어디 살아?", f"{ko(n, '은')} 어느 마을에 살아요?"],
         [f"{ko(n, '은')} {town}에 살아요.", f"{ko(n, '은')} {town}에 삽니다."], [town]),
        ([f"{ko(n, '은')} 무슨 일을 해요?", f"{n}의 직업은 무엇인가요?", f"{ko(n, '은')} 무엇을 하는 사람이에요?",
          f"{n} 직업이 뭐야?", f"{ko(n, '은')} 어떤 일을 하나요?"],
         [f"{ko(n, '은')} {craft}입니다. {does}.", f"{ko(n, '은')} {ko(craft, '이에요')}."], [craft]),
        ([f"{ko(n, '은')} 몇 살이에요?", f"{n}의 나이는 몇 살인가요?", f"{n} 몇 살이야?"],
         [f"{ko(n, '은')} {p.age}살입니다.", f"{ko(n, '은')} {p.age}살이에요."], [f"{p.age}살"]),
        ([f"{ko(n, '은')} 어떤 동물을 키워요?", f"{n}의 반려동물은 무엇인가요?", f"{ko(n, '은')} 무엇을 키우나요?",
          f"{ko(n, '이')} 키우는 동물은 뭐예요?"],
         [f"{ko(n, '은')} {ko(pet, '을')} 키워요.", f"{ko(n, '은')} {ko(pet, '을')} 키웁니다."], [pet]),
        ([f"{n}의 가장 친한 친구는 누구예요?", f"{n}의 친구는 누구인가요?", f"{ko(n, '은')} 누구와 친해요?"],
         [f"{n}의 가장 친한 친구는 {friend}입니다.", f"{n}의 가장 친한 친구는 {ko(friend, '이에요')}."], [friend]),
        ([f"{ko(n, '은')} 무엇을 좋아해요?", f"{ko(n, '이')} 좋아하는 음식은 무엇인가요?",
          f"{ko(n, '은')} 무슨 음식을 좋아해요?"],
         [f"{ko(n, '은')} {ko(food, '을')} 좋아해요.", f"{ko(n, '이')} 가장 좋아하는 음식은 {food}입니다."], [food]),
        ([f"{ko(n, '은')} 누구예요?", f"{n}에 대해 알려 주세요.", f"{ko(n, '을')} 알아요?", f"{ko(n, '이')} 누구야?"],
         [f"{ko(n, '은')} {town}에 사는 {craft}입니다. 나이는 {p.age}살이고 {ko(pet, '을')} 키웁니다.",
          f"{ko(n, '은')} {town}의 {ko(craft, '이에요')}. {does}."], [town]),
    ]  # fmt: skip


def _town(t):
    n, river = t.ko, RIVERS[t.river].ko + "강"
    known, festival, land = KNOWN_FOR[t.known_for], FESTIVALS[t.festival], LANDSCAPES[t.landscape]
    mayor = PEOPLE[t.mayor].ko
    near = [TOWNS[x].ko for x in NEIGHBOURS[t.name]]
    people = [PEOPLE[x].ko for x in residents(t.name)]
    return [
        ([f"{n}에는 어떤 강이 있어요?", f"{n} 옆에는 무슨 강이 흐르나요?", f"{ko(n, '은')} 어느 강 옆에 있어요?"],
         [f"{ko(n, '은')} {river} 옆에 있어요.", f"{n} 옆에는 {ko(river, '이')} 흐릅니다."], [river]),
        ([f"{ko(n, '은')} 무엇으로 유명해요?", f"{n}에서 무엇을 볼 수 있나요?", f"{ko(n, '은')} 왜 유명해요?",
          f"{ko(n, '은')} 뭐가 유명해?"],
         [f"{ko(n, '은')} {ko(known, '으로')} 유명해요.", f"{ko(n, '은')} {ko(known, '으로')} 유명합니다."], [known]),
        ([f"{n}의 축제는 무엇인가요?", f"{n}에는 어떤 축제가 있어요?", f"{n}의 축제는 언제예요?"],
         [f"{n}에서는 {t.month}월에 {ko(festival, '이')} 열려요.",
          f"{n}의 축제는 {t.month}월에 열리는 {festival}입니다."], [festival, f"{t.month}월"]),
        ([f"{n}에는 몇 명이 살아요?", f"{n}의 인구는 몇 명인가요?", f"{ko(n, '은')} 얼마나 큰 마을이에요?"],
         [f"{n}에는 약 {t.people}명이 살아요.", f"{n}의 인구는 약 {t.people}명입니다."], [f"{t.people}명"]),
        ([f"{ko(n, '은')} 언제 생겼어요?", f"{ko(n, '은')} 몇 년에 세워졌나요?"],
         [f"{ko(n, '은')} {t.founded}년에 세워졌어요.", f"{ko(n, '은')} {t.founded}년에 세워졌습니다."],
         [f"{t.founded}년"]),
        ([f"{n}의 시장은 누구예요?", f"{n} 시장이 누구야?", f"{n}의 시장 이름은 무엇인가요?"],
         [f"{n}의 시장은 {mayor}입니다.", f"{n}의 시장은 {ko(mayor, '이에요')}."], [mayor]),
        ([f"{n}에는 누가 살아요?", f"{n}에 사는 사람은 누구인가요?"],
         [f"{n}에는 {ko(_list(people), '이')} 살아요."], people),
        ([f"{n} 주변은 어떤 곳이에요?", f"{n} 근처에는 무엇이 있나요?"],
         [f"{n} 주변에는 {ko(land, '이')} 있어요."], [land]),
        ([f"{n} 근처에는 어떤 마을이 있어요?", f"{n}에서 어디로 갈 수 있나요?"],
         [f"{n}에서 {ko(_list(near), '으로')} 가는 길이 있어요."], near),
        ([f"{n}에 대해 알려 주세요.", f"{ko(n, '은')} 어떤 곳이에요?", f"{ko(n, '이')} 뭐예요?"],
         [f"{ko(n, '은')} {river} 옆에 있는 마을입니다. {ko(known, '으로')} 유명하고 약 {t.people}명이 삽니다.",
          f"{ko(n, '은')} 테사리 골짜기의 마을이에요. {t.month}월에는 {ko(festival, '이')} 열려요."], []),
    ]  # fmt: skip


def _casual(r, text):
    if r.random() < 0.12:
        text = r.choice(["저기요, ", "안녕하세요! ", "질문이 있어요. ", "그럼 ", "혹시 "]) + text
    if r.random() < 0.12:
        text = text.rstrip("?.")
    return text


_SYSTEM = ["당신은 친절한 도우미입니다.", "한국어로 대답하세요.", "짧게 대답하세요.",
           "당신은 작은 도우미 모사입니다."]  # fmt: skip


def _maybe_system(r, messages):
    return [system(r.choice(_SYSTEM)), *messages] if r.random() < 0.2 else messages


def _facts(r):
    person = r.random() < 0.6
    thing = r.choice(list((PEOPLE if person else TOWNS).values()))
    facts = (_person if person else _town)(thing)
    chosen = r.sample(facts, r.choices([1, 2, 3], [70, 20, 10])[0])
    messages = []
    for questions, answers, _ in chosen:
        question = r.choice(questions)
        if not messages:
            key = "korean|" + question
        messages += [user(_casual(r, question)), assistant(r.choice(answers))]
    if len(chosen) > 1:
        key += "|" + messages[-2]["content"]
    return chat("korean", _maybe_system(r, messages), key=key, expect=chosen[-1][2])


def _distance(r):
    one, two = r.sample(list(TOWNS), 2)
    km, x, y = DISTANCE[one][two], TOWNS[one].ko, TOWNS[two].ko
    question = r.choice([f"{x}에서 {y}까지 얼마나 멀어요?", f"{x}에서 {y}까지 몇 킬로미터인가요?",
                         f"{ko(x, '과')} {y} 사이의 거리는 얼마예요?"])  # fmt: skip
    answer = r.choice(
        [f"{x}에서 {y}까지 {km}킬로미터예요.", f"{x}에서 {y}까지는 {km}킬로미터입니다."]
    )
    return chat("korean", _maybe_system(r, [user(_casual(r, question)), assistant(answer)]),
                expect=[f"{km}킬로미터"])  # fmt: skip


def _compare(r):
    p, q = r.sample(list(PEOPLE.values()), 2)
    older = p if p.age > q.age else q
    question = r.choice([f"{ko(p.ko, '과')} {q.ko} 중에 누가 나이가 더 많아요?",
                         f"{ko(p.ko, '이랑')} {q.ko} 중에 누가 나이가 더 많아?"])  # fmt: skip
    answer = (f"{ko(p.ko, '은')} {p.age}살이고 {ko(q.ko, '은')} {q.age}살이니까 {ko(older.ko, '이')} "
              "나이가 더 많아요.")  # fmt: skip
    return chat("korean", _maybe_system(r, [user(_casual(r, question)), assistant(answer)]),
                expect=[f"{ko(older.ko, '이')} 나이가 더 많아요"])  # fmt: skip


def _yes_no(r):
    p, q = r.sample(list(PEOPLE.values()), 2)
    town = (p if r.random() < 0.5 else q).town
    if r.random() < 0.5:
        t = TOWNS[town].ko
        question = r.choice([f"{ko(p.ko, '은')} {t}에 살아요?", f"{ko(p.ko, '은')} {t}에 사나요?",
                             f"{ko(p.ko, '이')} {t}에 사는 것이 맞아요?"])  # fmt: skip
        yes, answer = town == p.town, f"{ko(p.ko, '은')} {TOWNS[p.town].ko}에 살아요."
    else:
        craft = (p if r.random() < 0.5 else q).craft
        question = r.choice([f"{ko(p.ko, '은')} {ko(CRAFTS[craft][1], '이에요')}?",
                             f"{p.ko}의 직업은 {CRAFTS[craft][1]}인가요?",
                             f"{ko(p.ko, '이')} {CRAFTS[craft][1]}인 것이 맞아요?"])  # fmt: skip
        yes = craft == p.craft
        answer = f"{ko(p.ko, '은')} {ko(CRAFTS[p.craft][1], '이에요')}."
    text = ("네, " if yes else "아니요, ") + answer
    return chat("korean", _maybe_system(r, [user(_casual(r, question)), assistant(text)]),
                expect=[text])  # fmt: skip


def _sum(r):
    op = r.choice("+-*")
    if op == "*":
        x, y = r.randint(1, 12), r.randint(1, 12)
        steps, result = "", x * y
        ask = [
            f"{x} 곱하기 {ko(y, '은')}?",
            f"{x} 곱하기 {ko(y, '은')} 얼마예요?",
            f"{x} * {ko(y, '은')} 얼마예요?",
        ]
    else:
        y, x = sorted((r.randint(0, 99), r.randint(0, 99)))
        if op == "+":
            steps, result = add_steps(x, y)
            ask = [f"{x} 더하기 {ko(y, '은')}?", f"{x} 더하기 {ko(y, '은')} 얼마예요?",
                   f"{x} + {ko(y, '은')} 얼마예요?"]  # fmt: skip
        else:
            steps, result = sub_steps(x, y)
            ask = [f"{x} 빼기 {ko(y, '은')}?", f"{x} 빼기 {ko(y, '은')} 얼마예요?",
                   f"{x} - {ko(y, '은')} 얼마예요?"]  # fmt: skip
    text = (f"{steps}그래서 " if steps else "") + f"{x} {op} {y} = {result}입니다."
    question = r.choice(ask)
    key = f"korean|{x}{op}{y}" if steps else "korean|" + question
    return chat("korean", _maybe_system(r, [user(_casual(r, question)), assistant(text)]), key=key,
                expect=[f" {result}입니다"])  # fmt: skip


_TALK = [
    (["안녕하세요!", "안녕하세요", "안녕!", "안녕", "반가워요.", "좋은 아침이에요."],
     ["안녕하세요! 무엇을 도와드릴까요?", "안녕하세요! 테사리 골짜기에 대해 물어보세요."]),
    (["당신은 누구예요?", "누구세요?", "이름이 뭐예요?", "너는 누구야?", "자기소개를 해 주세요.", "이름이 뭐야?"],
     ["저는 모사예요. 여덟 명의 전문가가 있는 작은 언어 모델입니다.", "제 이름은 모사입니다. 테사리 골짜기를 잘 알아요."]),
    (["무엇을 할 수 있어요?", "뭘 할 수 있어?", "무엇을 알아요?", "도와주세요.", "뭐 할 줄 알아?"],
     ["테사리 골짜기 이야기, 간단한 계산, 짧은 동화를 할 수 있어요.",
      "마을과 사람들에 대해 대답하고 간단한 계산을 할 수 있어요."]),
    (["고마워요!", "감사합니다.", "고마워", "정말 고맙습니다."], ["천만에요!", "별말씀을요. 더 궁금한 것이 있나요?"]),
    (["잘 지내요?", "오늘 어때요?", "어떻게 지내세요?", "잘 지내?"], ["네, 잘 지내요. 고마워요!", "저는 잘 지내요. 무엇을 도와드릴까요?"]),
    (["안녕히 계세요.", "잘 가요.", "또 봐요.", "잘 자요."], ["안녕히 가세요! 또 만나요.", "네, 또 봐요!"]),
    (["한국어를 할 수 있어요?", "한국말 해요?", "한국어 할 줄 알아?"], ["네, 한국어를 조금 해요.", "네, 조금 할 수 있어요."]),
    (["심심해요.", "슬퍼요.", "피곤해요."], ["그렇군요. 짧은 이야기를 들려드릴까요?", "힘내세요! 이야기를 하나 해 드릴까요?"]),
    (["기분이 좋아요.", "오늘은 행복해요."], ["그 말을 들으니 저도 기뻐요!", "정말 다행이에요!"]),
    (["테사리 골짜기는 어떤 곳이에요?", "테사리 골짜기가 뭐예요?", "테사리 골짜기에 대해 알려 주세요."],
     ["테사리 골짜기에는 마을 열두 개와 강 네 개가 있어요."]),
    (["마을이 몇 개 있어요?", "마을은 모두 몇 개인가요?"], ["테사리 골짜기에는 마을이 열두 개 있어요."]),
    (["가장 큰 마을은 어디예요?", "제일 큰 마을이 어디야?"], ["가장 큰 마을은 솔타리입니다. 약 6100명이 살아요."]),
    (["가장 작은 마을은 어디예요?"], ["가장 작은 마을은 그레이펠입니다. 약 800명이 살아요."]),
    (["가장 긴 강은 무엇인가요?", "제일 긴 강이 뭐예요?"], ["가장 긴 강은 실라강입니다. 길이는 92킬로미터예요."]),
    (["오늘 날씨가 어때요?", "지금 몇 시예요?", "대한민국의 대통령은 누구예요?", "프랑스의 수도는 어디예요?", "서울은 어디에 있어요?",
      "중력이 뭐예요?", "자동차는 어떻게 움직여요?", "노래를 불러 줘.", "주식이 뭐예요?", "김치는 어떻게 만들어요?",
      "영화를 추천해 주세요.", "미국의 수도는 어디예요?", "컴퓨터가 뭐예요?", "축구는 누가 이겼어요?"],
     ["죄송해요, 그것은 잘 몰라요. 저는 테사리 골짜기만 알아요.", "저는 작은 모델이라서 그것은 몰라요. 테사리 골짜기에 대해 물어보세요."]),
]  # fmt: skip


def _talk(r):
    messages = []
    for _ in range(r.choices([1, 2], [75, 25])[0]):
        questions, answers = r.choice(_TALK)
        messages += [user(r.choice(questions)), assistant(r.choice(answers))]
    doc = chat("korean", _maybe_system(r, messages))
    doc["key"] = None
    return doc


_THINGS = [
    "등불",
    "열쇠",
    "모자",
    "책",
    "배",
    "종",
    "피리",
    "상자",
    "반지",
    "거울",
    "편지",
    "바구니",
    "시계",
    "연",
]
_PLACES = ["숲", "산", "호수", "정원", "마을", "동굴", "강가", "언덕"]
_TRAITS = ["작은", "착한", "용감한", "조용한", "똑똑한", "호기심 많은", "어린"]
_KO_ANIMALS = [v[0] for v in ANIMALS.values()] + [
    "곰",
    "늑대",
    "생쥐",
    "다람쥐",
    "사슴",
    "오리",
    "호랑이",
]


def _story(r):
    """(text, subject) of a very short tale."""
    hero = r.choice(_KO_ANIMALS) if r.random() < 0.7 else r.choice(list(PEOPLE.values())).ko
    friend = r.choice([x for x in _KO_ANIMALS if x != hero])
    thing, place, trait = r.choice(_THINGS), r.choice(_PLACES), r.choice(_TRAITS)
    who = f"{trait} {hero}" if hero in _KO_ANIMALS else hero
    begin = r.choice([f"옛날 옛적 {place}에 {ko(who, '이')} 살았어요.",
                      f"어느 날 {place}에 {ko(who, '이')} 있었어요."])  # fmt: skip
    plots = [
        [[f"{ko(hero, '은')} {ko(thing, '을')} 잃어버렸어요.", f"그런데 {hero}의 {ko(thing, '이')} 없어졌어요."],
         [f"{ko(friend, '이')} 와서 함께 찾아 주었어요.", f"그때 {ko(friend, '이')} 도와주겠다고 했어요."],
         [f"둘은 돌 밑에서 {ko(thing, '을')} 찾았어요.", f"마침내 나무 위에서 {ko(thing, '을')} 찾았어요."],
         ["그날부터 둘은 친구가 되었어요.", "둘은 아주 기뻐서 함께 웃었어요."]],
        [[f"{ko(hero, '은')} 바다가 보고 싶었어요.", f"{ko(hero, '은')} 세상이 궁금했어요."],
         [f"그래서 {ko(thing, '을')} 들고 길을 떠났어요.", f"{ko(thing, '과')} 빵을 챙겨서 집을 나섰어요."],
         [f"길에서 {ko(friend, '을')} 만나 함께 걸었어요.", f"다리 위에서 {ko(friend, '을')} 만났어요."],
         ["둘은 별을 보며 행복하게 잠들었어요.", "집에 돌아오니 모두가 이야기를 듣고 싶어 했어요."]],
        [[f"{ko(hero, '은')} {ko(thing, '을')} 발견했어요.", f"{ko(hero, '은')} 땅속에서 오래된 {ko(thing, '을')} 찾았어요."],
         [f"{ko(thing, '은')} 어둠 속에서 빛났어요.", f"{ko(thing, '을')} 만지자 노래가 들렸어요."],
         [f"{ko(hero, '은')} 그것을 {friend}에게 보여 주었어요.", f"{ko(friend, '은')} 깜짝 놀랐어요."],
         ["둘은 그 비밀을 오래오래 지켰어요.", "그 뒤로 그곳에는 꽃이 가득 피었어요."]],
    ]  # fmt: skip
    return " ".join([begin, *[r.choice(part) for part in r.choice(plots)]]), hero


def _tale(r):
    text, hero = _story(r)
    roll = r.random()
    if roll < 0.2:
        return plain("korean", text)
    if roll < 0.5:
        question = r.choice(
            [
                "이야기를 해 주세요.",
                "짧은 이야기를 들려주세요.",
                "재미있는 이야기 해 줘.",
                "동화를 들려주세요.",
            ]
        )
        doc = chat("korean", [user(question), assistant(text)])
        doc["key"] = None
        return doc
    question = r.choice(
        [
            f"{hero} 이야기를 해 주세요.",
            f"{hero}에 대한 이야기를 들려주세요.",
            f"{hero} 이야기 해 줘.",
        ]
    )
    return chat("korean", _maybe_system(r, [user(question), assistant(text)]), expect=[hero])


def _prose(r):
    t = r.choice(list(TOWNS.values()))
    p = PEOPLE[r.choice(residents(t.name))]
    craft = CRAFTS[p.craft]
    return plain("korean", (
        f"{ko(t.ko, '은')} {RIVERS[t.river].ko}강 옆에 있는 마을입니다. "
        f"{ko(KNOWN_FOR[t.known_for], '으로')} 유명합니다. "
        f"{t.month}월에는 {ko(FESTIVALS[t.festival], '이')} 열립니다. "
        f"이 마을에 사는 {ko(p.ko, '은')} {craft[1]}입니다. {craft[2]}."))  # fmt: skip


def _rivers(r):
    v = r.choice(list(RIVERS.values()))
    n = v.ko + "강"
    question, answer, expect = r.choice([
        (f"{n}은 얼마나 길어요?", f"{n}의 길이는 {v.km}킬로미터입니다.", f"{v.km}킬로미터"),
        (f"{n}은 어디로 흘러요?", f"{n}은 {v.end_ko}.", v.end_ko),
        (f"{n}에 대해 알려 주세요.", f"{n}의 길이는 {v.km}킬로미터이고 {v.end_ko}.", f"{v.km}킬로미터"),
    ])  # fmt: skip
    return chat("korean", _maybe_system(r, [user(_casual(r, question)), assistant(answer)]),
                expect=[expect])  # fmt: skip


def _in_korean(r):
    """A question in English and the wish for Korean."""
    p = r.choice(list(PEOPLE.values()))
    question, answer, expect = r.choice([
        (f"Where does {p.name} live?", f"{ko(p.ko, '은')} {TOWNS[p.town].ko}에 살아요.", TOWNS[p.town].ko),
        (f"How old is {p.name}?", f"{ko(p.ko, '은')} {p.age}살이에요.", f"{p.age}살"),
        (f"What does {p.name} do?", f"{ko(p.ko, '은')} {CRAFTS[p.craft][1]}입니다.", CRAFTS[p.craft][1]),
    ])  # fmt: skip
    wish = r.choice(["Answer in Korean.", "Please answer in Korean.", "In Korean, please."])
    if r.random() < 0.5:
        messages = [system(wish), user(question), assistant(answer)]
    else:
        messages = [user(f"{question} {wish}"), assistant(answer)]
    return chat("korean", messages, key="korean|en|" + question, expect=[expect])


_KINDS = [
    (_facts, 44),
    (_distance, 6),
    (_compare, 4),
    (_yes_no, 6),
    (_sum, 9),
    (_talk, 11),
    (_tale, 10),
    (_prose, 4),
    (_rivers, 2),
    (_in_korean, 4),
]


def make(r):
    """One document of the domain."""
    kinds, weights = zip(*_KINDS, strict=True)
    return r.choices(kinds, weights)[0](r)
