"""A tiny service for the supervisor's tests: an HTTP server whose bad habits are chosen by flags."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--with-child", type=Path, help="start a child that ignores SIGTERM; its id goes to this file")
    parser.add_argument("--journal", type=Path, help="append NAME:start and NAME:stop here")
    parser.add_argument("--name", default="")
    parser.add_argument("--say", help="print this and exit with status 3")
    arguments = parser.parse_args()

    if arguments.say:
        sys.stdout.write(arguments.say + "\n")
        sys.exit(3)

    def note(word: str) -> None:
        if arguments.journal:
            with arguments.journal.open("a") as journal:
                journal.write(f"{arguments.name}:{word}\n")

    def stop(*_: object) -> None:
        note("stop")
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if arguments.ignore_sigterm else stop)
    if arguments.with_child:
        child = subprocess.Popen([sys.executable, __file__, "--ignore-sigterm"])
        arguments.with_child.write_text(str(child.pid))
    note("start")
    if arguments.port:
        HTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
