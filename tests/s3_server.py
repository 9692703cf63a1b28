"""The process of `tests.object_store`: ``python -m tests.s3_server PORT``.

moto's own program asks of each request which of Amazon's services it is for, and logs it, which takes as long as
the answer does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from socket import SHUT_RDWR
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.responses import S3Response
from werkzeug.serving import run_simple

LOSES_ANSWERS = re.compile(r"/answers-(?P<how>dropped|503)/")
"""In a key: each write of it that asks for no object to be there is carried out, and at the first time not told."""
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Quiet(MotoRequestHandler):
    def log_request(self, *_: Any, **__: Any) -> None:
        pass


def one_write_at_a_time() -> None:
    """Have moto look whether an object is there and write it in one step, as S3 promises it: by itself it does not."""
    put_object, lock = S3Response.put_object, Lock()

    def put_alone(self: S3Response) -> Any:
        with lock:
            return put_object(self)

    S3Response.put_object = put_alone  # type: ignore[method-assign]


def losing_answers(app: App) -> App:
    """Lose the answers that `LOSES_ANSWERS` says: the connection ends without a word, or a gateway says 503."""
    answered = set[str]()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, found = environ["PATH_INFO"], LOSES_ANSWERS.search(environ["PATH_INFO"])
        if found is None or "HTTP_IF_NONE_MATCH" not in environ or path in answered:
            return app(environ, start)
        answered.add(path)
        list(app(environ, lambda *_: None))
        if found["how"] == "dropped":
            environ["werkzeug.socket"].shutdown(SHUT_RDWR)
            raise ConnectionResetError
        start("503 Service Unavailable", [("Content-Length", "0")])
        return []

    return answer


if __name__ == "__main__":
    one_write_at_a_time()
    server = losing_answers(create_backend_app("s3"))
    run_simple("127.0.0.1", int(sys.argv[1]), server, threaded=True, request_handler=Quiet)
