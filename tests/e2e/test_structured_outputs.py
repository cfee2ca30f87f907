"""Answers held to a schema, an expression, a grammar or a call, as the official client asks for.

The demo model has never seen a schema: whatever it would write, what comes is what was asked."""

import json
import random
import re
import threading

import jsonschema
import openai
import pydantic
import pytest

QUESTION = [{"role": "user", "content": "What is the weather in Ostra?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "town": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "units": {"enum": ["celsius", "kelvin"]},
    },
    "required": ["town", "days", "units"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "stop"}},
]
SCHEMAS = [
    WEATHER,
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {
        "anyOf": [
            {"const": 'a"b\\c'},
            {"type": "null"},
            {"type": "number", "minimum": 10, "maximum": 20},
        ]
    },
    {"type": "string", "pattern": "^[a-f]{3,6}(-[0-9]{2})?$"},
    {"type": "string", "format": "date"},
    {"type": "string", "minLength": 3, "maxLength": 9},
    {
        "type": "object",
        "properties": {
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            "n": {"enum": [1, 2.5]},
        },
        "required": ["n", "next"],
        "additionalProperties": False,
    },
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}},
    {
        "type": "array",
        "prefixItems": [{"const": 1}, {"type": "string", "maxLength": 4}],
        "items": False,
    },
]


@pytest.fixture(scope="module")
def client(demo):
    return openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0, timeout=60)


def ask(client, stream=False, **wanted):
    wanted = {"model": "demo", "messages": QUESTION, "max_tokens": 400, **wanted}
    if not stream:
        choice = client.chat.completions.create(**wanted).choices[0]
        return choice.message.content, choice.finish_reason
    text, reason = "", None
    for event in client.chat.completions.create(stream=True, **wanted):
        text += event.choices[0].delta.content or ""
        reason = event.choices[0].finish_reason or reason
    return text, reason


def schema_format(schema):
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("temperature", [0, 1.0, 2.0])
def test_answers_are_valid_or_cut_off(client, schema, temperature):
    whole = 0
    for seed in range(6):
        text, reason = ask(
            client,
            stream=seed % 2 == 1,
            response_format=schema_format(schema),
            temperature=temperature,
            seed=seed,
        )
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
            whole += 1
        else:
            assert reason == "length"
    # Nothing makes a model end an object that may go on for ever.
    bounded = not isinstance(schema.get("additionalProperties"), dict)
    assert whole >= bounded, "no answer came to its end"


def test_an_object_is_parsed_into_a_model(client):
    class Forecast(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        town: str = pydantic.Field(max_length=10)
        rain: bool

    answer = client.chat.completions.parse(
        model="demo", messages=QUESTION, response_format=Forecast, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Forecast)


def test_any_object(client):
    text, reason = ask(
        client, response_format={"type": "json_object"}, temperature=1.0, seed=3, max_tokens=900
    )
    assert text.startswith("{")
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("extra", "expression"),
    [
        ({"guided_choice": ["yes", "no", "per haps"]}, "yes|no|per haps"),
        ({"guided_regex": r"\d{3}-[xyz]"}, r"\d{3}-[xyz]"),
        ({"structured_outputs": {"regex": "(ab|c){2,4}!"}}, "(ab|c){2,4}!"),
        ({"structured_outputs": {"grammar": 'start: "<" /[a-z]{1,5}/ ">"'}}, "<[a-z]{1,5}>"),
        ({"grammar": 'root ::= item ("," item){1,3}\nitem ::= [0-9]'}, r"\d(,\d){1,3}"),
        ({"nvext": {"guided_choice": ["a", "b"]}}, "a|b"),
    ],
)
def test_other_kinds(client, extra, expression):
    for seed in range(5):
        text, reason = ask(client, extra_body=extra, temperature=1.5, seed=seed)
        assert reason == "stop"
        assert re.fullmatch(expression, text), text


def test_calls_that_must_be_made(client):
    for seed in range(5):
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            answer = client.chat.completions.create(
                model="demo",
                messages=QUESTION,
                tools=TOOLS,
                tool_choice=choice,
                temperature=1.0,
                seed=seed,
                max_tokens=400,
            ).choices[0]
            if answer.finish_reason == "length":
                continue  # many calls
            assert answer.finish_reason == ("tool_calls" if choice == "required" else "stop")
            assert not answer.message.content
            assert answer.message.tool_calls
            for call in answer.message.tool_calls:
                arguments = json.loads(call.function.arguments)
                if call.function.name == "get_weather":
                    jsonschema.validate(arguments, WEATHER)
                else:
                    assert call.function.name == "stop"


def test_strict_functions_are_called_as_their_schemas_say(client):
    tool = {"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}
    calls = 0
    for seed in range(8):
        answer = client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            tools=[tool],
            temperature=0.7,
            seed=seed,
            max_tokens=200,
        ).choices[0]
        for call in answer.message.tool_calls or []:
            jsonschema.validate(json.loads(call.function.arguments), WEATHER)
            calls += 1
    assert calls > 0


def test_wrong_schemas_are_the_requests_fault(client):
    for schema in ({"type": "nonsense"}, {"type": "string", "pattern": "("}, {"not": {}}):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, response_format=schema_format(schema))
        assert caught.value.body["param"] == "response_format.json_schema.schema"


def test_many_at_once_with_others(client):
    """Constrained and free requests in one batch: each has what it has alone."""
    kinds = [
        {"response_format": schema_format(WEATHER)},
        {"extra_body": {"guided_regex": "[a-z ]{20,40}[.]"}},
        {},
    ]
    alone = [
        ask(client, temperature=1.0, seed=seed, max_tokens=60, **kinds[seed % 3])
        for seed in range(24)
    ]
    together = [None] * len(alone)

    def run(seed):
        together[seed] = ask(client, temperature=1.0, seed=seed, max_tokens=60, **kinds[seed % 3])

    order = list(range(len(alone)))
    random.Random(1).shuffle(order)
    threads = [threading.Thread(target=run, args=(seed,)) for seed in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
