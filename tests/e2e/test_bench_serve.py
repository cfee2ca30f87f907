"""`bench serve`: our server under load, and a server that misbehaves in every way."""

import json
import re
import signal
import socket
import socketserver
import subprocess
import threading
import time
from statistics import mean, pstdev

import pytest
from conftest import BINARY, DEMO
from test_life import run

TOKENS = 5
FIRST, GAP = 0.25, 0.05  # seconds, of a slow answer


def event(text="", **members):
    choice = {"index": 0, "text": text, "finish_reason": None, **members}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % TOKENS
DONE = b"data: [DONE]\n\n"
END = event(finish_reason="length")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def plain(status, body, kind="application/json", more=""):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return (head + body).encode()


class Misbehaving(socketserver.StreamRequestHandler):
    """Answers as the first part of the path says; keeps connections unless that is the point."""

    disable_nagle_algorithm = True

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def stream(self, *events, gap=0.0):
        self.wfile.write(STREAM)
        for one in events:
            self.chunk(one)
            time.sleep(gap)

    def handle(self):
        try:
            while line := self.rfile.readline():
                target = line.split()[1].decode()
                fields = {}
                while (field := self.rfile.readline().strip()) != b"":
                    name, _, value = field.decode().partition(":")
                    fields[name.lower()] = value.strip()
                body = self.rfile.read(int(fields.get("content-length", 0)))
                self.server.seen.append((time.monotonic(), target, fields, body))
                if not self.answer(target.split("/")[1], target, len(self.server.seen)):
                    return
        except OSError:
            pass  # the client has gone

    def answer(self, how, target, number):
        """True to go on with the connection."""
        if target.endswith("/models"):
            names = {"several": ["a", "b\x1b[2J"], "none": []}.get(how, ["fake"])
            listed = json.dumps({"data": [{"id": name} for name in names]})
            self.wfile.write(plain("200 OK", "<html>" if how == "page" else listed))
            return True
        whole = [event("x")] * TOKENS + [END, USAGE, DONE]
        if how in ("ok", "stale"):
            self.stream(*whole)
            self.chunk(b"")
            return how == "ok"  # closed where the head said that it would stay
        if how == "mixed":
            self.wfile.write(plain("503 Service Unavailable", "full", "text/plain"))
            return True
        if how == "slow":
            time.sleep(FIRST)
            self.stream(*whole[:TOKENS], gap=GAP)
            for one in (*whole[TOKENS:], b""):
                self.chunk(one)
            return True
        return self.fail(how)

    def fail(self, how):
        if how == "nousage":
            self.stream(event("x"), event("x"), END, DONE, b"")
        elif how == "breaks":
            self.stream(event("x"), event("x"))
        elif how == "unfinished":
            self.stream(event("x"), b"")
        elif how == "empty":
            self.stream(DONE, b"")
        elif how == "malformed":
            self.stream(event("x"), b'data: {"choices":[\n\n', b"")
        elif how == "reports":
            self.stream(event("x"), b'data: {"error":{"message":"out of blocks"}}\n\n', b"")
        elif how == "429":
            body = json.dumps({"error": {"message": "slow\x1b[2J down"}})
            self.wfile.write(plain("429 Too Many Requests", body, more="Retry-After: 1\r\n"))
        elif how == "503":
            self.wfile.write(plain("503 Service Unavailable", "busy", "text/plain"))
        elif how == "moved":
            self.wfile.write(plain("301 Moved", "", more="Location: /x\r\n"))
        elif how == "page":
            self.wfile.write(plain("200 OK", "<html>", "text/html"))
        elif how == "noise":
            self.wfile.write(b"\x00\x01\x02 220 smtp ready\r\n\r\n")
        elif how == "huge":
            self.stream(*[b"data: " + b"x" * (1 << 18) + b"\n"] * 8)
        elif how == "silent":
            time.sleep(20)
        elif how in ("endless", "tail", "comments"):
            self.stream(*([event("x"), END, DONE] if how == "tail" else []))
            flood = (b": ping\n\n" if how == "comments" else event("x")) * 100
            while True:
                self.chunk(flood)
        return how in ("nousage", "unfinished", "empty", "429", "503", "page")


@pytest.fixture(scope="module")
def fake():
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 512
        seen = []

    with Server(("127.0.0.1", 0), Misbehaving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()


def load(url, *flags, code=0):
    """The report as JSON, and what stood on standard error."""
    answer = run("bench", "serve", url, "--json", *flags)
    assert answer.returncode == code, answer.stderr + answer.stdout
    return json.loads(answer.stdout), answer.stderr


def test_our_server_under_load(serve):
    served = serve(DEMO, "--served-model-name", "demo")
    flags = ["--requests", "24", "--concurrency", "8", "--input-len", "16..32", "--ignore-eos"]
    flags += ["--output-len", "8", "--token-ids", "10..4000"]
    report, errors = load(served.url, *flags)
    assert (report["completed"], report["failed"], report["model"]) == (24, 0, "demo")
    assert report["output_tokens"] == 24 * 8 and 24 * 16 < report["prompt_tokens"] < 24 * 32
    assert report["prompt_tokens"] == served.metric("vllm:prompt_tokens_total")
    assert report["output_tokens"] == served.metric("vllm:generation_tokens_total")
    assert report["peak_in_flight"] == 8 and report["answers_without_usage"] == 0
    assert 0 < report["ttft_ms"]["p50"] < report["e2e_ms"]["p50"]
    for kind in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        figures = report[kind]
        assert 0 <= figures["p50"] <= figures["p90"] <= figures["p99"], (kind, figures)
    assert report["output_tokens_per_s"] == pytest.approx(192 / report["seconds"])
    assert "bench: 24/24 requests" in errors


def test_hundreds_of_streams_at_once(serve):
    served = serve(DEMO, "--served-model-name", "demo")
    flags = ["--requests", "300", "--concurrency", "300", "--input-len", "4", "--output-len", "3"]
    report, _ = load(served.url, *flags, "--ignore-eos")
    assert (report["completed"], report["peak_in_flight"]) == (300, 300)
    assert report["output_tokens"] == 900


def test_chats_of_a_file_with_a_key(serve, tmp_path):
    served = serve(DEMO, "--served-model-name", "demo", "--api-key", "a-secret")
    prompts = tmp_path / "prompts.jsonl"
    chat = {"messages": [{"role": "user", "content": "Tell me a story"}]}
    prompts.write_text("Hello there\n" + json.dumps(chat) + "\n")
    flags = ["--endpoint", "chat", "--prompts", prompts, "--output-len", "6"]
    answer = run("bench", "serve", served.url, *flags)
    assert answer.returncode == 69 and "401" in answer.stderr and "a-secret" not in answer.stderr
    report, _ = load(served.url + "/v1", *flags, "--api-key", "a-secret")
    assert (report["requests"], report["completed"], report["endpoint"]) == (2, 2, "chat")
    named = ["--header", "X-Trace: 7", "--header", "Authorization: Bearer a-secret"]
    report, _ = load(served.url, *flags, *named, "--requests", "5", "--model", "demo")
    assert report["completed"] == 5


def test_times_are_those_of_the_server(fake):
    report, _ = load(fake.url + "/slow", "--requests", "8", "--concurrency", "4")
    assert report["completed"] == 8 and report["output_tokens"] == 8 * TOKENS
    assert report["prompt_tokens"] == 8 * 9
    first, between = FIRST * 1e3, GAP * 1e3
    assert first <= report["ttft_ms"]["p50"] < first + 150
    assert between * 0.8 <= report["itl_ms"]["p50"] < between + 25
    assert between * 0.8 <= report["tpot_ms"]["mean"] < between + 40
    least = first + TOKENS * between
    assert least <= report["e2e_ms"]["p50"] < least + 200
    assert least * 2 <= report["seconds"] * 1e3 < least * 2 + 400


def bodies(fake, *flags):
    """What the server was sent: times and bodies, in the order of arrival."""
    fake.seen.clear()
    load(fake.url + "/ok", "--model", "m", *flags)
    calls = [seen for seen in fake.seen if seen[1].endswith("/completions")]
    return [seen[0] for seen in calls], [json.loads(seen[3]) for seen in calls]


def test_arrivals_are_a_poisson_process(fake):
    flags = ["--requests", "150", "--input-len", "3..6", "--output-len", "7..9"]
    times, sent = bodies(fake, *flags, "--rate", "100")
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert mean(gaps) == pytest.approx(0.01, rel=0.3)
    # Equal gaps would spread by nothing, exponential ones by as much as their mean.
    assert 0.7 < pstdev(gaps) / mean(gaps) < 1.4
    assert {len(body["prompt"]) for body in sent} == {3, 4, 5, 6}
    assert {body["max_tokens"] for body in sent} == {7, 8, 9}
    assert all(1000 <= token <= 4000 for body in sent for token in body["prompt"])
    assert sent[0]["stream"] and sent[0]["stream_options"] == {"include_usage": True}
    assert sent[0]["model"] == "m" and "ignore_eos" not in sent[0]

    def prompts(*more):
        return sorted(body["prompt"] for body in bodies(fake, *flags, *more)[1])

    same = prompts("--concurrency", "1")
    assert same == sorted(body["prompt"] for body in sent)
    assert prompts("--concurrency", "4", "--seed", "5") != same


def test_more_members_and_headers(fake):
    extra = '{"temperature": 0, "top_k": 3}'
    _, sent = bodies(fake, "--requests", "1", "--extra-body", extra, "--ignore-eos")
    assert (sent[0]["temperature"], sent[0]["top_k"], sent[0]["ignore_eos"]) == (0, 3, True)
    more = ["--header", "X-Trace: 7", "--header=X-Team:a, b", "--api-key", "k"]
    bodies(fake, "--requests", "1", *more)
    fields = fake.seen[-1][2]
    assert fields["x-trace"] == "7" and fields["x-team"] == "a, b"
    assert fields["authorization"] == "Bearer k"


FAILURES = {
    "breaks": "closed the connection before the end",
    "unfinished": "ended in the middle of the answer",
    "empty": "ended without an answer",
    "malformed": "an event is not JSON",
    "reports": "the stream reports: out of blocks",
    "429": "429 Too Many Requests: slow?[2J down",
    "503": "503 Service Unavailable: busy",
    "moved": "301 Moved",
    "page": "no event stream but 'text/html'",
    "noise": "no answer",
    "huge": "larger than 1 MiB",
    "endless": "far beyond the tokens",
    "comments": "ran out (--timeout)",
    "silent": "ran out (--timeout)",
}


@pytest.mark.parametrize("how", FAILURES)
def test_failures_are_counted_by_reason(how, fake):
    flags = ["--requests", "4", "--concurrency", "2", "--timeout", "1.5", "--model", "m"]
    start = time.monotonic()
    report, errors = load(fake.url + "/" + how, *flags, code=69)
    assert time.monotonic() - start < 10
    assert (report["completed"], report["failed"], report["ttft_ms"]) == (0, 4, None)
    assert len(report["failures"]) == 1 and report["failures"][0]["count"] == 4
    assert FAILURES[how] in report["failures"][0]["reason"], report["failures"]
    assert "4 of 4 requests failed" in errors


def test_what_is_odd_and_no_failure(fake):
    flags = ["--requests", "12", "--concurrency", "3", "--model", "m"]
    # Connections that are gone when they are used again.
    assert load(fake.url + "/stale", *flags)[0]["completed"] == 12
    report, _ = load(fake.url + "/nousage", *flags, "--input-len", "8")
    assert (report["answers_without_usage"], report["output_tokens"]) == (12, 24)
    assert report["prompt_tokens"] == 96
    # An answer is complete with its last event, whatever comes behind it.
    start = time.monotonic()
    assert load(fake.url + "/tail", *flags)[0]["completed"] == 12
    assert time.monotonic() - start < 15


def test_connections_are_used_again(fake):
    fake.seen.clear()
    accepted = []
    handler = fake.process_request
    fake.process_request = lambda request, client: (accepted.append(1), handler(request, client))
    try:
        load(fake.url + "/ok", "--requests", "40", "--concurrency", "2", "--model", "m")
    finally:
        fake.process_request = handler
    assert len(fake.seen) == 40 and len(accepted) == 2


def test_the_report_for_people(fake):
    answer = run("bench", "serve", fake.url + "/ok", "--requests", "6")
    assert answer.returncode == 0
    assert "6 completed, 0 failed" in answer.stdout and "fake, completions" in answer.stdout
    for line in ("time to first token", "time per output token", "inter-token", "end to end"):
        assert re.search(rf"^{line}.*( +\d+\.\d\d){{4}}$", answer.stdout, re.MULTILINE), line
    # The model's answers were shorter than the 64 tokens that were asked for.
    assert "30 of the 384 tokens asked for" in answer.stdout
    answer = run("bench", "serve", fake.url + "/503", "--requests", "3", "--model", "m")
    assert answer.returncode == 69 and "3  503 Service Unavailable: busy" in answer.stdout


def test_ctrl_c_reports_what_there_is(fake):
    command = [BINARY, "bench", "serve", fake.url + "/slow", "--requests", "1000", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=10)
    report = json.loads(out)
    assert process.returncode == 69 and "interrupted after" in errors
    assert report["interrupted"] and 16 <= report["completed"] < 1000 and report["failed"] == 0
    assert report["seconds"] == pytest.approx(2, abs=0.7)


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("several", 64, "a, b?[2J"),
        ("none", 69, "no model"),
        ("page", 69, "not JSON"),
    ],
)
def test_the_model_is_the_only_one(how, code, says, fake):
    answer = run("bench", "serve", f"{fake.url}/{how}")
    assert answer.returncode == code and says in answer.stderr, answer.stderr


def test_no_server(fake):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        answer = run("bench", "serve", url)
        assert answer.returncode == 69 and "Connection refused" in answer.stderr
        report, _ = load(url, "--model", "m", "--requests", "3", code=69)
        assert "no connection: Connection refused" in report["failures"][0]["reason"]
    answer = run("bench", "serve", "http://no.such.host.invalid")
    assert answer.returncode == 69 and "no.such.host.invalid" in answer.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "which server"),
        (["http://h", "x"], "which server"),
        (["https://h"], "no TLS"),
        (["http://h", "--rate", "2", "--concurrency", "3"], "two kinds of load"),
        (["http://h", "--rate", "0"], "--rate"),
        (["http://h", "--rate", "nan"], "--rate"),
        (["http://h", "--input-len", "9..3"], "--input-len"),
        (["http://h", "--endpoint", "embeddings"], "completions or chat"),
        (["http://h", "--endpoint", "chat"], "needs --prompts"),
        (["http://h", "--header", "nothing"], "NAME: VALUE"),
        (["http://h", "--header", "X: a\rb"], "control character"),
        (["http://h", "--extra-body", "[1]"], "no JSON object"),
        (["http://h", "--extra-body", '{"stream": false}'], "set by the bench itself"),
        (["http://h", "--threads", "2"], "--threads"),
        (["http://h", "--sequences", "2"], "means nothing to 'bench serve'"),
    ],
)
def test_what_is_refused(flags, says):
    answer = run("bench", "serve", *flags)
    assert answer.returncode == 64 and says in answer.stderr, answer.stderr


def test_each_kind_of_bench_has_its_own_options():
    answer = run("bench", "latency", DEMO, "--rate", "3")
    assert answer.returncode == 64 and "means nothing to 'bench latency'" in answer.stderr
    answer = run("bench", "sevre", "http://h")
    assert answer.returncode == 64 and "bench serve URL" in answer.stderr
