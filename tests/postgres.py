"""A PostgreSQL server on loopback, in a folder that goes with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmdiff.process.tcp_ports import free_port

USER = "llmdiff"


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server: where it listens, and the password of `USER`."""

    port: int
    password: str
    bin: Path

    def url(self, database: str, driver: str = "postgresql") -> str:
        return f"{driver}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def query(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        import psycopg2

        connection = psycopg2.connect(self.url(database))
        connection.autocommit = True  # for CREATE DATABASE
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def dump(self, database: str) -> bytes:
        """Everything that a database holds, as text."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database]
        env = {**os.environ, "PGPASSWORD": self.password}
        return subprocess.run([self.bin / "pg_dump", *place], env=env, capture_output=True, check=True).stdout


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps it off the path."""
    found = [Path(os.path.realpath(name)).parent for name in filter(None, [shutil.which("postgres")])]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@contextmanager
def postgres(folder_of_programs: Path, password: str) -> Iterator[Postgres]:
    """A server with password logins. It refuses to run as root, so root starts it as another user."""
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    server = Postgres(free_port(), password, folder_of_programs)
    with tempfile.TemporaryDirectory(prefix="llmdiff-postgres-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if as_user:
            for path in (folder, folder / "password"):
                os.chown(path, as_user["user"], as_user["group"])
        place = ["-D", str(folder / "data")]
        login = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
        make = [server.bin / "initdb", *place, *login, "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_user)
        options = ["-p", str(server.port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            command = [server.bin / "postgres", *place, *options]
            child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
        try:
            _wait(server, child, folder / "log")
            yield server
        finally:
            child.send_signal(signal.SIGINT)  # ends connections too
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(server: Postgres, child: subprocess.Popen[bytes], log: Path) -> None:
    """Until it takes logins."""
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            server.query("postgres", "SELECT 1")
            return
        except psycopg2.OperationalError:
            ended = child.poll() is not None or time.monotonic() > deadline
            assert not ended, f"PostgreSQL does not answer: {log.read_text()}"
            time.sleep(0.1)
