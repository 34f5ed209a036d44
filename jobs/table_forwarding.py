"""Bringing an MLflow server to where an ensemble of very many members stands: a table of them on the parent."""

import csv
import hashlib
import io
import time
from typing import TYPE_CHECKING

from jobs.forwarding import Forwarder, Tracked
from jobs.records import METRICS, MemberRecord
from salcore.members import Member

if TYPE_CHECKING:
    from jobs.tracking import Server

TABLE, SENT = "members.csv", "salcore.members"
"""The artifact, and the parent's tag with the checksum of the one that stands there."""
EVERY_S = 60.0
"""The table is made anew no more often, and at the end."""
COLUMNS = ("member", "status", "reason", "epochs", *METRICS, "seconds")


class TableForwarder(Forwarder):
    """The forwarder of more members than `tracking.member_runs`: a row for each, and no runs.

    Members that have a run of their own, from when there were fewer, keep it as any member's, and have a row too.
    """

    def __init__(self, server: "Server", tracked: Tracked) -> None:
        super().__init__(server, tracked)
        self._due = 0.0
        self._records: dict[int, tuple[str, ...]] = {}

    def _forward_children(self, *, over: bool) -> None:
        if not over and time.monotonic() < self._due:
            return
        super()._forward_children(over=over)
        self._send_table(over=over)
        self._due = time.monotonic() + EVERY_S

    def _forward_member(self, member: Member, record: MemberRecord, *, over: bool) -> None:
        self._records[member.index] = _row(record)
        if member.fingerprint in self._found:
            super()._forward_member(member, record, over=over)

    def _trained(self) -> int:
        return sum(row[0] == "FINISHED" for row in self._records.values())

    def _send_table(self, *, over: bool) -> None:
        """Upload the table unless it is the one that stands there."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for member in self._tracked.members:
            if over and member.index not in self._records:
                continue  # the run did not come to need it
            status, *rest = self._records.get(member.index, ("SCHEDULED",) + ("",) * (len(COLUMNS) - 2))
            rows.writerow((member.index, "KILLED" if over and status == "RUNNING" else status, *rest))
        content = text.getvalue().encode()
        mark = hashlib.sha256(content).hexdigest()
        if self._parent.tags.get(SENT) != mark:
            self._server.upload(self._parent.id, TABLE, content)
            self._server.tag(self._parent.id, SENT, mark)
            self._parent.tags[SENT] = mark


def _row(record: MemberRecord) -> tuple[str, ...]:
    """What the table says of a member that has begun, but for its number; metrics are those of the last epoch."""
    last = {point.key: f"{point.value:.6g}" for point in (record.epochs[-1] if record.epochs else ())}
    values = (last.get(key, "") for key in METRICS.values())
    return record.stage, record.reason or "", str(len(record.epochs)), *values, f"{record.seconds:.3f}"
