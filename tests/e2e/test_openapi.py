"""/openapi.json against what the server does, with a JSON Schema validator of others."""

import json
import urllib.error
import urllib.request

import pytest
from conftest import DEMO
from jsonschema import Draft202012Validator


@pytest.fixture(scope="module")
def api(demo):
    return json.loads(demo.get("/openapi.json")[1])


def post(served, path, body):
    request = urllib.request.Request(
        served.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def resolved(schema, api):
    """The schema with what its references point to."""
    text = json.dumps({**schema, "components": api["components"]})
    return json.loads(text)


MESSAGES = [{"role": "user", "content": "hi"}]
BODIES = {
    "/v1/completions": [
        ({"prompt": "a"}, True),
        ({"prompt": [1, 2], "logprobs": 3, "stop": ["a", "b"], "seed": None}, True),
        ({"prompt": ["a", "b"], "n": 2, "logit_bias": {"5": -100}}, True),
        ({}, False),
        ({"prompt": ""}, False),
        ({"prompt": "a", "n": 0}, False),
        ({"prompt": "a", "temperature": 2.5}, False),
        ({"prompt": "a", "logprobs": 21}, False),
        ({"prompt": "a", "grammar": 'root ::= "x"'}, True),
        ({"prompt": "a", "functions": [{"name": "f"}]}, False),
        ({"prompt": "a", "logit_bias": {"5": 101}}, False),
        ({"prompt": "a", "stop": ["x"] * 65}, False),
    ],
    "/v1/chat/completions": [
        ({"messages": MESSAGES}, True),
        ({"messages": MESSAGES, "tool_choice": "none", "functions": []}, True),
        ({"messages": []}, False),
        ({"messages": MESSAGES, "logprobs": 3}, False),
        ({"messages": MESSAGES, "tool_choice": "perhaps"}, False),
        ({"messages": MESSAGES, "response_format": {"type": "json_object"}}, True),
        ({"messages": MESSAGES, "response_format": {"type": "text"}}, True),
    ],
    "/tokenize": [
        ({"prompt": "a"}, True),
        ({"messages": MESSAGES}, True),
        ({"prompt": 1}, False),
        ({}, False),
    ],
    "/detokenize": [({"tokens": [1, 2]}, True), ({"tokens": "a"}, False), ({}, False)],
}


@pytest.mark.parametrize("path", BODIES)
def test_a_body_is_valid_where_it_is_answered(demo, api, path):
    operation = api["paths"][path]["post"]
    schema = resolved(operation["requestBody"]["content"]["application/json"]["schema"], api)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for body, good in BODIES[path]:
        if good and path.startswith("/v1"):
            body = {**body, "max_tokens": 1}
        assert validator.is_valid(body) == good, body
        assert post(demo, path, body) == (200 if good else 400), body


def test_errors_are_as_described(demo, api):
    schema = resolved(api["components"]["schemas"]["Error"], api)
    status, text = demo.get("/v1/models/nobody")
    assert status == 404
    Draft202012Validator(schema).validate(json.loads(text))


def test_tokenizer_info(serve):
    served = serve(DEMO, "--enable-tokenizer-info-endpoint")
    info = json.loads(served.get("/tokenizer_info")[1])
    assert info["tokenizer_class"] and "{%" in info["chat_template"]
    text = "{{ messages }} of my own"
    served = serve(DEMO, "--enable-tokenizer-info-endpoint", "--chat-template", text)
    assert json.loads(served.get("/tokenizer_info")[1])["chat_template"] == text
