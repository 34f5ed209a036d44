"""Where things lie in a run directory. A path is a pure function of what the file holds: no clock, no random name."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

SPEC = "spec.yaml"
TOKENIZER = "tokenizer.json"
"""The tokenizer of texts for a language model, as the `tokenizers` library reads it."""
TEXTS = "texts.parquet"
"""Numbers and digests of the texts that a run for a language model evaluates."""
LOCK = "run.lock"
MLFLOW = "mlflow.json"
SUMMARY = "stats/summary.parquet"
REPORT = "report/index.html"
STAGES = "report/stages.json"
BLAME = "report/parameters.html"
"""The page of parameter-space saliency."""
FIGURES = ("report/maps.png", "report/snr.png", "report/convergence.png")
CHOSEN = "chosen.yaml"
"""The spec of the setting that a search chose."""
ARTIFACTS = (SPEC, SUMMARY, REPORT, BLAME, *FIGURES)
"""What a run's page in MLflow carries."""
MEMBERS = "members"
"""Folder of all members."""
BORROWED = "members/ensemble.yaml"
"""Present where the members are copies from another run, whose directory it names."""
LOGITS = "logits"
"""Folder of a member's logits on the evaluation samples, cut into the same ranges as its maps."""
LOGITS_INDEX = "members/logits.feather"
"""File that says of all members at once what is finished of their logits."""


def member_folder(member: int) -> str:
    """Folder of what one training leaves: `members/0007`."""
    return f"members/{member:04d}"


def member_file(member: int, name: str) -> str:
    """A file of one member, such as `member.json` or `weights.safetensors`."""
    return f"{member_folder(member)}/{name}"


def maps_folder(method: str, member: int) -> str:
    """Folder of one member's shards by one method."""
    return f"maps/{method}/member={member:04d}"


def logits_folder(member: int) -> str:
    """Folder of one member's logits."""
    return f"{member_folder(member)}/{LOGITS}"


@cache
def part_file(part: int) -> str:
    """Name of the file that holds one range of samples."""
    return f"part-{part:05d}.arrow"


def part_of(path: str) -> int:
    """Which range a file of that name holds.

    >>> part_of(part_file(12))
    12
    """
    return int(path.removeprefix("part-").removesuffix(".arrow"))


def maps_index(method: str) -> str:
    """File that says of all members at once what is finished of a method's maps."""
    return f"maps/{method}/index.feather"


def stats_folder(method: str) -> str:
    """Folder of the statistics of one method over the members."""
    return f"stats/{method}"


def profiles_folder(split: str, member: int) -> str:
    """Folder of the shards of one member's filter profiles on one split."""
    return f"profiles/{split}/member={member:04d}"


def profile_statistics_file(member: int) -> str:
    """File of the mean and deviation of one member's profiles over the held-out split."""
    return f"profiles/statistics/member={member:04d}.arrow"


def blame_folder(experiment: str, member: int) -> str:
    """Folder of what one experiment on one member's filters came to."""
    return f"blame/{experiment}/member={member:04d}"


def table_file(part: int) -> str:
    """Name of the table of one range of samples."""
    return f"part-{part:05d}.parquet"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Positions [start, stop) in the fixed order of the evaluation samples: what one shard holds."""

    part: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def ranges(samples: int, shard_samples: int) -> Iterator[Range]:
    """Cut `samples` into ranges of `shard_samples`, the last one shorter.

    >>> [(r.part, r.start, r.stop) for r in ranges(5, 2)]
    [(0, 0, 2), (1, 2, 4), (2, 4, 5)]
    """
    for part, start in enumerate(range(0, samples, shard_samples)):
        yield Range(part=part, start=start, stop=min(start + shard_samples, samples))
