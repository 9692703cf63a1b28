"""The process of `tests.object_store`: ``python -m tests.s3_server PORT``.

moto's own program asks of each request which of Amazon's services it is for, and logs it, which takes as long as
the answer does.
"""

from __future__ import annotations

import sys
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class Quiet(MotoRequestHandler):
    def log_request(self, *_: Any, **__: Any) -> None:
        pass


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), create_backend_app("s3"), threaded=True, request_handler=Quiet)
