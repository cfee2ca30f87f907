"""The Vale of Tessary: the invented world that the demo model knows.

Everything here is a table, so that a person can check an answer of the model against it.
"""

import heapq

VALE = "the Vale of Tessary"

# name, Korean name, gender, age, town, craft, pet, best friend, favourite food
_PEOPLE = [
    ("Mira", "미라", "f", 56, "Greyfell", "blacksmith", "pony", "Koro", "smoked trout"),
    ("Tovan", "토반", "m", 52, "Brindle", "potter", "donkey", "Bette", "cherry tart"),
    ("Lena", "레나", "f", 30, "Ostwick", "baker", "rabbit", "Wren", "bean salad"),
    ("Oskar", "오스카르", "m", 78, "Marben", "doctor", "turtle", "Yara", "roast chestnuts"),
    ("Pella", "펠라", "f", 65, "Saltary", "boatbuilder", "owl", "Sorrel", "smoked trout"),
    ("Juno", "주노", "f", 23, "Pinmoor", "carpenter", "cat", "Rufo", "pear jam"),
    ("Bram", "브람", "m", 27, "Harrowen", "clockmaker", "owl", "Kesi", "bean salad"),
    ("Sefa", "세파", "f", 33, "Pinmoor", "boatbuilder", "fox", "Oskar", "goat cheese"),
    ("Ilan", "일란", "m", 49, "Brindle", "beekeeper", "goose", "Corin", "onion pie"),
    ("Nadi", "나디", "f", 54, "Lindow", "painter", "raven", "Joss", "walnut cookies"),
    ("Koro", "코로", "m", 60, "Vessin", "clockmaker", "fox", "Edda", "roast chestnuts"),
    ("Wren", "렌", "f", 58, "Callow", "gardener", "dog", "Odette", "cherry tart"),
    ("Tamsin", "탐신", "f", 71, "Lindow", "librarian", "donkey", "Tovan", "honey bread"),
    ("Edda", "에다", "f", 77, "Greyfell", "potter", "goat", "Mira", "honey bread"),
    ("Rufo", "루포", "m", 36, "Vessin", "fisher", "owl", "Isla", "roast chestnuts"),
    ("Hale", "헤일", "m", 32, "Vessin", "musician", "fox", "Lena", "barley soup"),
    ("Yara", "야라", "f", 67, "Saltary", "teacher", "pony", "Hale", "honey bread"),
    ("Dorin", "도린", "m", 20, "Ostwick", "miller", "pony", "Nolan", "plum cake"),
    ("Isla", "이슬라", "f", 69, "Elmsor", "beekeeper", "goose", "Quilla", "onion pie"),
    ("Fenn", "펜", "m", 68, "Marben", "teacher", "cat", "Dorin", "goat cheese"),
    ("Marlo", "말로", "m", 45, "Tarn", "musician", "dog", "Emre", "walnut cookies"),
    ("Quilla", "퀼라", "f", 47, "Lindow", "shepherd", "goose", "Bram", "mushroom stew"),
    ("Sorrel", "소렐", "f", 34, "Marben", "gardener", "raven", "Anselm", "barley soup"),
    ("Vesna", "베스나", "f", 22, "Callow", "glassblower", "goat", "Fenn", "goat cheese"),
    ("Anselm", "안셀름", "m", 21, "Pinmoor", "shepherd", "turtle", "Sefa", "pear jam"),
    ("Bette", "베테", "f", 80, "Saltary", "weaver", "rabbit", "Nadi", "mushroom stew"),
    ("Corin", "코린", "m", 37, "Harrowen", "blacksmith", "raven", "Pella", "cherry tart"),
    ("Delia", "델리아", "f", 42, "Callow", "baker", "turtle", "Marlo", "pear jam"),
    ("Emre", "엠레", "m", 81, "Tarn", "librarian", "hen", "Juno", "bean salad"),
    ("Gilda", "길다", "f", 76, "Ostwick", "fisher", "rabbit", "Tamsin", "onion pie"),
    ("Hobb", "홉", "m", 24, "Elmsor", "carpenter", "hen", "Delia", "walnut cookies"),
    ("Joss", "조스", "m", 55, "Brindle", "doctor", "donkey", "Luma", "barley soup"),
    ("Kesi", "케시", "f", 53, "Harrowen", "glassblower", "goat", "Hobb", "plum cake"),
    ("Luma", "루마", "f", 61, "Greyfell", "miller", "cat", "Ilan", "smoked trout"),
    ("Nolan", "놀란", "m", 75, "Elmsor", "weaver", "dog", "Gilda", "plum cake"),
    ("Odette", "오데트", "f", 29, "Tarn", "painter", "hen", "Vesna", "mushroom stew"),
]

# name, Korean name, river, landscape, known for, festival, its month, founded, people, mayor
_TOWNS = [
    (
        "Brindle",
        "브린들",
        "Silla",
        "meadows",
        "its stone bridge",
        "Bridge Fair",
        5,
        1204,
        3200,
        "Ilan",
    ),
    (
        "Ostwick",
        "오스트윅",
        "Brune",
        "wheat fields",
        "its windmills",
        "Bread Feast",
        8,
        1310,
        1800,
        "Gilda",
    ),
    (
        "Marben",
        "마르벤",
        "Silla",
        "sea cliffs",
        "its lighthouse",
        "Lantern Feast",
        11,
        1098,
        5400,
        "Oskar",
    ),
    (
        "Callow",
        "캘로",
        "Brune",
        "orchards",
        "its apple gardens",
        "Blossom Fair",
        4,
        1275,
        1500,
        "Wren",
    ),
    (
        "Tarn",
        "탄",
        "Silla",
        "a deep lake",
        "its great library",
        "Book Fair",
        10,
        1150,
        2100,
        "Emre",
    ),
    (
        "Elmsor",
        "엘름소르",
        "Ambra",
        "elm woods",
        "its wooden toys",
        "Carving Fair",
        2,
        1342,
        1200,
        "Isla",
    ),
    (
        "Pinmoor",
        "핀무어",
        "Nettis",
        "pine forests",
        "its tall pines",
        "Snow Fair",
        1,
        1401,
        900,
        "Juno",
    ),
    (
        "Saltary",
        "솔타리",
        "Ambra",
        "a sandy coast",
        "its harbour",
        "Boat Race",
        7,
        1066,
        6100,
        "Yara",
    ),
    (
        "Harrowen",
        "해로웬",
        "Brune",
        "red hills",
        "its clock tower",
        "Clock Fair",
        12,
        1229,
        2700,
        "Kesi",
    ),
    (
        "Lindow",
        "린도",
        "Ambra",
        "green hills",
        "its soft wool",
        "Wool Market",
        6,
        1188,
        1700,
        "Tamsin",
    ),
    (
        "Vessin",
        "베신",
        "Nettis",
        "reed marshes",
        "its music school",
        "Song Feast",
        9,
        1367,
        1400,
        "Koro",
    ),
    (
        "Greyfell",
        "그레이펠",
        "Silla",
        "high mountains",
        "its hot springs",
        "Fire Feast",
        3,
        1133,
        800,
        "Luma",
    ),
]

# name, Korean name, length in km, where it ends
_RIVERS = [
    ("Silla", "실라", 92, "flows into the sea at Marben", "마르벤에서 바다로 흘러갑니다"),
    ("Brune", "브룬", 61, "joins the Silla near Brindle", "브린들 근처에서 실라강과 만납니다"),
    ("Ambra", "암브라", 74, "flows into the sea at Saltary", "솔타리에서 바다로 흘러갑니다"),
    ("Nettis", "네티스", 38, "ends in the marshes of Vessin", "베신의 늪에서 끝납니다"),
]

_ROADS = [
    ("Greyfell", "Tarn", 14),
    ("Tarn", "Brindle", 11),
    ("Brindle", "Marben", 18),
    ("Harrowen", "Callow", 9),
    ("Callow", "Ostwick", 13),
    ("Ostwick", "Brindle", 8),
    ("Elmsor", "Lindow", 12),
    ("Lindow", "Saltary", 16),
    ("Marben", "Saltary", 21),
    ("Pinmoor", "Vessin", 10),
    ("Vessin", "Ostwick", 15),
    ("Elmsor", "Brindle", 17),
    ("Pinmoor", "Harrowen", 19),
    ("Tarn", "Elmsor", 20),
]

# craft: what they do, Korean word, Korean description
CRAFTS = {
    "blacksmith": ("makes horseshoes and iron tools", "대장장이", "말굽과 쇠 도구를 만듭니다"),
    "potter": ("makes bowls and jugs from clay", "도예가", "흙으로 그릇과 항아리를 만듭니다"),
    "baker": ("bakes bread every morning", "제빵사", "매일 아침 빵을 굽습니다"),
    "doctor": ("looks after sick people", "의사", "아픈 사람을 돌봅니다"),
    "boatbuilder": ("builds wooden boats", "배 목수", "나무배를 만듭니다"),
    "carpenter": ("makes tables and chairs from wood", "목수", "나무로 탁자와 의자를 만듭니다"),
    "clockmaker": ("builds and repairs clocks", "시계공", "시계를 만들고 고칩니다"),
    "beekeeper": ("keeps bees and sells honey", "양봉가", "벌을 기르고 꿀을 팝니다"),
    "painter": ("paints pictures of the valley", "화가", "골짜기의 그림을 그립니다"),
    "gardener": ("grows flowers and vegetables", "정원사", "꽃과 채소를 기릅니다"),
    "librarian": ("takes care of old books", "사서", "오래된 책을 돌봅니다"),
    "fisher": ("catches fish in the river", "어부", "강에서 물고기를 잡습니다"),
    "musician": ("plays the fiddle at every feast", "음악가", "잔치마다 바이올린을 켭니다"),
    "teacher": ("teaches children to read", "교사", "아이들에게 읽기를 가르칩니다"),
    "miller": ("grinds wheat into flour", "방앗간 주인", "밀을 갈아 밀가루를 만듭니다"),
    "shepherd": ("looks after a flock of sheep", "양치기", "양 떼를 돌봅니다"),
    "glassblower": (
        "makes bottles and lamps from glass",
        "유리 장인",
        "유리로 병과 등불을 만듭니다",
    ),
    "weaver": ("weaves blankets and scarves", "직조공", "담요와 목도리를 짭니다"),
}

# animal: Korean word, sound, legs, young
ANIMALS = {
    "dog": ("개", "barks", 4, "puppy"),
    "cat": ("고양이", "meows", 4, "kitten"),
    "goat": ("염소", "bleats", 4, "kid"),
    "goose": ("거위", "honks", 2, "gosling"),
    "donkey": ("당나귀", "brays", 4, "foal"),
    "owl": ("부엉이", "hoots", 2, "owlet"),
    "hen": ("암탉", "clucks", 2, "chick"),
    "pony": ("조랑말", "neighs", 4, "foal"),
    "rabbit": ("토끼", "squeaks", 4, "kit"),
    "raven": ("까마귀", "caws", 2, "chick"),
    "turtle": ("거북이", "hisses", 4, "hatchling"),
    "fox": ("여우", "yelps", 4, "cub"),
}

FOODS = {
    "barley soup": "보리 수프",
    "plum cake": "자두 케이크",
    "smoked trout": "훈제 송어",
    "onion pie": "양파 파이",
    "honey bread": "꿀빵",
    "goat cheese": "염소 치즈",
    "pear jam": "배 잼",
    "mushroom stew": "버섯 스튜",
    "walnut cookies": "호두 쿠키",
    "cherry tart": "체리 타르트",
    "bean salad": "콩 샐러드",
    "roast chestnuts": "군밤",
}

LANDSCAPES = {
    "meadows": "초원",
    "wheat fields": "밀밭",
    "sea cliffs": "바닷가 절벽",
    "orchards": "과수원",
    "a deep lake": "깊은 호수",
    "elm woods": "느릅나무 숲",
    "pine forests": "소나무 숲",
    "a sandy coast": "모래 해안",
    "red hills": "붉은 언덕",
    "green hills": "푸른 언덕",
    "reed marshes": "갈대 늪",
    "high mountains": "높은 산",
}

KNOWN_FOR = {
    "its stone bridge": "돌다리",
    "its windmills": "풍차",
    "its lighthouse": "등대",
    "its apple gardens": "사과밭",
    "its great library": "큰 도서관",
    "its wooden toys": "나무 장난감",
    "its tall pines": "키 큰 소나무",
    "its harbour": "항구",
    "its clock tower": "시계탑",
    "its soft wool": "부드러운 양털",
    "its music school": "음악 학교",
    "its hot springs": "온천",
}

FESTIVALS = {
    "Bridge Fair": "다리 축제",
    "Bread Feast": "빵 축제",
    "Lantern Feast": "등불 잔치",
    "Blossom Fair": "꽃 축제",
    "Book Fair": "책 축제",
    "Carving Fair": "조각 축제",
    "Snow Fair": "눈 축제",
    "Boat Race": "배 경주",
    "Clock Fair": "시계 축제",
    "Wool Market": "양털 시장",
    "Song Feast": "노래 잔치",
    "Fire Feast": "불 잔치",
}

MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip


class Person:
    """One inhabitant; `town`, `friend` are names to look up."""

    def __init__(self, row):
        (self.name, self.ko, gender, self.age, self.town, self.craft, self.pet, self.friend,
         self.food) = row  # fmt: skip
        female = gender == "f"
        self.he = "she" if female else "he"
        self.his = "her" if female else "his"
        self.him = "her" if female else "him"


class Town:
    """One town; `month` counts from 1."""

    def __init__(self, row):
        (self.name, self.ko, self.river, self.landscape, self.known_for, self.festival, self.month,
         self.founded, self.people, self.mayor) = row  # fmt: skip

    @property
    def month_name(self):
        return MONTHS[self.month - 1]


class River:
    """One river with its length in kilometres."""

    def __init__(self, row):
        self.name, self.ko, self.km, self.end, self.end_ko = row


PEOPLE = {row[0]: Person(row) for row in _PEOPLE}
TOWNS = {row[0]: Town(row) for row in _TOWNS}
RIVERS = {row[0]: River(row) for row in _RIVERS}
NEIGHBOURS = {name: {} for name in TOWNS}
for _a, _b, _km in _ROADS:
    NEIGHBOURS[_a][_b] = _km
    NEIGHBOURS[_b][_a] = _km


def _shortest_from(start):
    best = {start: 0}
    queue = [(0, start)]
    while queue:
        km, town = heapq.heappop(queue)
        for other, step in NEIGHBOURS[town].items():
            if km + step < best.get(other, 1 << 30):
                best[other] = km + step
                heapq.heappush(queue, (km + step, other))
    return best


DISTANCE = {name: _shortest_from(name) for name in TOWNS}


def residents(town):
    """The names of the people who live in `town`, in table order."""
    return [p.name for p in PEOPLE.values() if p.town == town]


def check():
    """Raises AssertionError when the tables contradict each other."""
    for person in PEOPLE.values():
        assert person.town in TOWNS and person.friend in PEOPLE and person.friend != person.name
        assert person.craft in CRAFTS and person.pet in ANIMALS and person.food in FOODS
    for town in TOWNS.values():
        assert PEOPLE[town.mayor].town == town.name, town.name
        assert town.river in RIVERS and town.landscape in LANDSCAPES
        assert town.known_for in KNOWN_FOR and town.festival in FESTIVALS
        assert len(DISTANCE[town.name]) == len(TOWNS)


check()
