"""A server whose answers a test writes. The page comes from the real one, headers and all."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Scripted:
    """Answers each generation request with the next of `answers`. One is a list of steps: a string
    is a piece of text, ("reasoning", text) one of reasoning, an Event is waited for, and None cuts
    the connection. [status, message] refuses. `requests` keeps (path, body), `gone` counts the
    clients that left before their answer ended."""

    def __init__(self, pages):
        self.pages = pages  # URL of the server that has the page
        self.answers, self.requests, self.gone = [], [], 0
        self.models = [{"id": "scripted", "max_model_len": 4096}]
        self.away = False  # connections are closed without a word
        self.key = None
        self.finish = "stop"
        self.load = {
            "started": 1, "layers": 2, "experts": 4, "top_k": 2, "layer_numbers": [0, 1],
            "total": [[0] * 4] * 2, "recent": [[0] * 4] * 2, "running": 0, "waiting": 0,
            "recent_seconds": 2.0, "tokens_per_second": 0.0,
            "first_token_seconds": None, "inter_token_seconds": None,
            "model": {"name": "scripted", "layers": 2, "chat": True, "text": True},
        }  # fmt: skip
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                scripted.get(self)

            def do_POST(self):
                scripted.post(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def get(self, handler):
        if self.away:
            return
        if handler.path == "/v1/models":
            if self.refused(handler):
                return
            send(handler, {"object": "list", "data": self.models})
        elif handler.path == "/moesaic/experts":
            send(handler, self.load)
        else:
            with urllib.request.urlopen(self.pages + handler.path) as answer:
                handler.send_response(answer.status)
                for name in ("content-type", "content-security-policy"):
                    handler.send_header(name, answer.headers[name])
                handler.end_headers()
                handler.wfile.write(answer.read())

    def post(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if self.away:
            return
        if handler.path == "/tokenize":
            # A token is four letters, and each message has three more.
            size = sum(3 + len(m["content"]) // 4 for m in body["messages"])
            send(handler, {"count": size, "max_model_len": self.models[0]["max_model_len"]})
            return
        if self.refused(handler):
            return
        self.requests.append((handler.path, body))
        steps = self.answers.pop(0)
        if steps and isinstance(steps[0], int):
            send(handler, {"error": {"message": steps[1], "code": steps[0]}}, steps[0])
            return
        try:
            self.stream(handler, steps, handler.path == "/v1/completions")
        except OSError:
            self.gone += 1

    def refused(self, handler):
        if self.key is None or handler.headers["Authorization"] == "Bearer " + self.key:
            return False
        send(handler, {"error": "Unauthorized"}, 401)
        return True

    def stream(self, handler, steps, completion):
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream; charset=utf-8")
        handler.end_headers()

        def event(text=None, kind="content", finish=None, usage=None):
            if usage is not None:
                data = {"choices": [], "usage": usage}
            elif completion:
                data = {"choices": [{"index": 0, "text": text or "", "finish_reason": finish}]}
            else:
                delta = {} if text is None else {kind: text}
                data = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            handler.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

        tokens = 0
        for step in steps:
            if step is None:
                return
            if isinstance(step, threading.Event):
                while not step.wait(0.1):
                    handler.wfile.write(b": still there\n\n")
            elif isinstance(step, tuple):
                event(step[1], step[0])
            else:
                tokens += 1
                event(step)
        event(finish=self.finish)
        event(usage={"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens})
        handler.wfile.write(b"data: [DONE]\n\n")


def send(handler, value, status=200):
    body = json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
