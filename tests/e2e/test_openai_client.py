"""The official `openai` client against the demo model: what its users do, and what they catch."""

import asyncio
import json

import openai
import pytest

QUESTION = [{"role": "user", "content": "Who are you?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a town today",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string"}},
                "required": ["town"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def client(demo):
    return openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0)


def test_models(client):
    assert [card.id for card in client.models.list()] == ["demo"]


def test_chat(client):
    answer = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert len(choice.message.content) > 10
    assert choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streamed_equals_whole(client):
    whole = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
    pieces, reasons, usage = [], [], None
    for event in client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if event.usage:
            usage = event.usage
        for choice in event.choices:
            pieces.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    assert "".join(pieces) == whole.choices[0].message.content
    assert [reason for reason in reasons if reason] == ["stop"]
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_async_streams_at_once_equal_each_alone(demo, client):
    questions = ["Who are you?", "What is 3 + 4?", "Tell me a short story.", "Hello!"]

    async def one(remote, text):
        stream = await remote.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=60,
            stream=True,
        )
        return "".join([event.choices[0].delta.content or "" async for event in stream])

    async def together():
        async with openai.AsyncOpenAI(base_url=demo.url + "/v1", api_key="none") as remote:
            return await asyncio.gather(*(one(remote, text) for text in questions))

    alone = [
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=60,
        )
        .choices[0]
        .message.content
        for text in questions
    ]
    assert asyncio.run(together()) == alone


def test_n_gives_choices_of_their_own(client):
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Tell me a short story."}],
        n=2,
        temperature=1.2,
        seed=5,
        max_tokens=40,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content


def test_same_seed_same_answer(client):
    def ask(seed):
        return (
            client.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": "Tell me a short story."}],
                temperature=1.0,
                seed=seed,
                max_tokens=40,
            )
            .choices[0]
            .message.content
        )

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(5)}) > 1


def test_stop_string_is_cut_off(client):
    free = client.completions.create(model="demo", prompt="Once upon", max_tokens=40, temperature=0)
    text = free.choices[0].text
    word = text.split()[3]
    held = client.completions.create(
        model="demo", prompt="Once upon", max_tokens=40, temperature=0, stop=[word]
    )
    assert held.choices[0].text == text[: text.index(word)]
    assert held.choices[0].finish_reason == "stop"
    kept = client.completions.create(
        model="demo",
        prompt="Once upon",
        max_tokens=40,
        temperature=0,
        stop=[word],
        extra_body={"include_stop_str_in_output": True},
    )
    assert kept.choices[0].text == text[: text.index(word)] + word


def test_logprobs(client):
    answer = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(other.logprob for other in token.top_logprobs)
    joined = b"".join(bytes(token.bytes) for token in content).decode()
    assert joined.startswith(answer.choices[0].message.content)


def test_completion_logprobs_with_echo(client):
    answer = client.completions.create(
        model="demo", prompt="Hello", max_tokens=2, temperature=0, logprobs=2, echo=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert answer.choices[0].text.startswith("Hello")


def test_prompts_as_token_ids(client):
    answer = client.completions.create(
        model="demo", prompt=[[5, 6, 7], [8, 9]], max_tokens=3, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.prompt_tokens == 5


def test_tools_reach_the_template(client):
    plain = client.chat.completions.create(model="demo", messages=QUESTION, max_tokens=1)
    tools = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=1, tools=TOOLS, tool_choice="auto"
    )
    assert tools.usage.prompt_tokens > plain.usage.prompt_tokens + 20


def test_tool_call_is_parsed(client):
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the weather in Ostra today?"}],
        tools=TOOLS,
        temperature=0,
        max_tokens=120,
    )
    choice = answer.choices[0]
    assert choice.message.tool_calls, f"answered in words: {choice.message.content!r}"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    town = json.loads(call.function.arguments)["town"]  # the small model mixes towns up
    assert town and isinstance(town, str)
    assert not choice.message.content
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"temperature": -1}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"n": 0}, openai.BadRequestError),
        ({"max_tokens": 10**9}, openai.BadRequestError),
        ({"model": "absent"}, openai.NotFoundError),
        ({"tool_choice": "required"}, openai.BadRequestError),
        ({"response_format": {"type": "structural_tag"}}, openai.BadRequestError),
    ],
)
def test_errors_are_those_the_client_expects(client, change, error):
    with pytest.raises(error) as caught:
        client.chat.completions.create(
            **{"model": "demo", "messages": QUESTION, "max_tokens": 4, **change}
        )
    assert 400 <= caught.value.status_code < 600
    assert caught.value.body["message"]


def test_cached_tokens_reach_the_client(serve):
    served = serve("models/demo", "--enable-prompt-tokens-details", "--served-model-name", "demo")
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    cached = [
        client.completions.create(
            model="demo", prompt="The herring boats of Ostra " * 20, max_tokens=1
        ).usage
        for _ in range(2)
    ]
    assert cached[0].prompt_tokens_details.cached_tokens == 0
    whole_blocks = (cached[1].prompt_tokens - 1) // 16 * 16
    assert cached[1].prompt_tokens_details.cached_tokens == whole_blocks > 0


@pytest.mark.parametrize("flags", [("-tp", "2"), ("-tp", "2", "--enable-expert-parallel")])
def test_ranks_answer_like_one(client, serve, flags):
    served = serve("models/demo", *flags, "--served-model-name", "demo", "--dtype", "float32")
    alone = serve("models/demo", "--served-model-name", "demo", "--dtype", "float32")
    answers = []
    for url in (served.url, alone.url):
        ranks = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        chat = ranks.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
        text = ranks.completions.create(
            model="demo", prompt=["Ostra is", "The sea"], max_tokens=40, temperature=0
        )
        answers.append([chat.choices[0].message.content, *(c.text for c in text.choices)])
    assert answers[0] == answers[1]


def test_api_key(serve):
    served = serve("models/demo", "--api-key", "right", "--served-model-name", "demo")
    wrong = openai.OpenAI(base_url=served.url + "/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    right = openai.OpenAI(base_url=served.url + "/v1", api_key="right", max_retries=0)
    assert [card.id for card in right.models.list()] == ["demo"]
    assert served.get("/health")[0] == 200
