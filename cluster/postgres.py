"""PostgreSQL from the system's packages, as a service of the user who starts it: no port, no password, one socket.

Its socket lets in that user alone (peer authentication). As it refuses to be root, root starts it as the system's user
`postgres`, and is let in as root all the same.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from cluster.services import Died, Services
from salcore.errors import UserError

PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu put it, by version, and not on the PATH."""
ACCOUNT = "postgres"


def start(services: Services, data: Path) -> dict[str, str]:
    """Start the database in the folder `data`, made if there is none; returns the environment of its clients.

    Raises UserError if PostgreSQL is not installed or cannot use the folder, Died if it does not start.
    """
    programs, user = find(), account(data)
    sockets = services.short / "postgres"
    for folder in (sockets, data):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user:
            os.chown(folder, user["user"], user["group"])
    me = pwd.getpwuid(os.geteuid()).pw_name
    if not (data / "PG_VERSION").is_file():
        _make(programs / "initdb", data, me, user)
    options = {"listen_addresses": "", "unix_socket_directories": str(sockets)}
    settings = [part for option, value in options.items() for part in ("-c", f"{option}={value}")]
    command = [str(programs / "postgres"), "-D", str(data), *settings]
    services.start("postgres", command, _environment(), end=signal.SIGINT, cwd="/", **user)  # SIGINT: do not wait
    services.wait("postgres", partial(_ready, programs / "pg_isready", sockets))
    return {"PGHOST": str(sockets), "PGUSER": me, "PGDATABASE": "postgres"}


def find() -> Path:
    """The folder of PostgreSQL's programs. Raises UserError."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    packaged = sorted(PACKAGED.glob("*/bin/initdb"), key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    if not packaged:
        raise UserError("PostgreSQL", f"initdb on the PATH or below {PACKAGED}: apt-get install postgresql")
    return packaged[-1].parent


def account(data: Path) -> dict[str, Any]:
    """The arguments of Popen by which root becomes the user postgres; none for anybody else. Raises UserError."""
    if os.geteuid() != 0:
        return {}
    try:
        found = pwd.getpwnam(ACCOUNT)
    except KeyError:
        expected = f"an ordinary user, or root where there is a user {ACCOUNT} (adduser --system --group {ACCOUNT})"
        raise UserError("user", f"{expected}, as PostgreSQL refuses to run as root", "root") from None
    for folder in reversed(data.parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            expected = f"a folder that the user {ACCOUNT} may enter, as PostgreSQL refuses to run as root"
            raise UserError("--home", f"{expected} (chmod o+x {folder})", str(data.parent))
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _make(initdb: Path, data: Path, administrator: str, user: dict[str, Any]) -> None:
    """A new database whose administrator has the name of the user who starts it."""
    options = [
        f"--username={administrator}",
        "--auth-local=peer",
        "--auth-host=reject",
        "--encoding=UTF8",
        "--no-locale",
    ]
    made = subprocess.run(
        [str(initdb), "-D", str(data), *options],
        env=_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        **user,
    )
    if made.returncode:
        raise Died(f"initdb cannot make a database in {data}: {made.stderr.strip()}")


def _environment() -> dict[str, str]:
    """No secret of the starter's is PostgreSQL's business."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _ready(isready: Path, sockets: Path) -> bool:
    return subprocess.run([str(isready), "-q", "-h", str(sockets)], env=_environment(), check=False).returncode == 0
