"""A small corpus in which one word decides, and SalLM's runs on it in this process, without Ray."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from jobs.command import Command
from jobs.prepare import begin, prepare
from salcore.member_files import train_member
from salcore.sallm import variants
from salcore.sallm.results import Sallm
from salcore.search import stages
from salcore.spec import SallmSpec, Spec, parse
from salcore.storage import Store

TELLING = {"bad": "awful poor dull sad".split(), "good": "great fine bright glad".split()}
OTHERS = "the a film plot story cast scene was is and with very of in it music camera light".split()


def write_corpus(folder: Path, *, train: int = 160, others: int = 40) -> None:
    """Sentences of 4 to 9 words, one of which tells the class."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(0)
    for name, count in (("train", train), ("dev", others), ("test", others)):
        lines = []
        for number in range(count):
            label = sorted(TELLING)[number % 2]
            words = drawn.choices(OTHERS, k=drawn.randint(3, 8))
            words.insert(drawn.randint(0, len(words)), drawn.choice(TELLING[label]))
            lines.append(f"{label} ||| {' '.join(words)}")
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


SPEC = """
name: tiny
data: {{name: "sst:{corpus}", validation_fraction: null, eval_samples: 40, vocabulary: 120}}
model: {{name: "transformers:bert", layers: 2, width: 16, heads: 2}}
ensemble: {{members: 2}}
training:
  epochs: 6
  batch_size: 16
  optimizer: adamw
  learning_rate: 0.01
  attention: {{weight: 1.0, top: 0.2, layers: [0]}}
cluster: {{slots: 2}}
attribution: {{batch_size: 32, shard_samples: 100, methods: [input_x_gradient]}}
"""


def spec_of(corpus: Path, *overrides: str) -> Spec:
    """The spec of SalLM on the corpus."""
    spec = parse(SPEC.format(corpus=corpus), overrides)
    return spec.model_copy(update={"sallm": spec.sallm or SallmSpec()})


@dataclass(frozen=True)
class Chain:
    """Runs of SalLM below a folder, done in this process."""

    spec: Spec
    place: Path

    def prepared(self, name: str):
        """The plan of one run; those before it are done."""
        found = next(stage[name] for stage in variants.stages(self.spec, str(self.place)) if name in stage)
        command = Command(spec=found, store=Store(str(self.place / name)), plan=False, retry_failed=False)
        plan = prepare(command)
        begin(plan)
        return plan

    def do(self, name: str) -> None:
        """Train, explain and reduce one run."""
        plan = self.prepared(name)
        for member in plan.members:
            outcome = train_member(member, plan.data, plan.store)
            assert outcome.reason is None, outcome.reason
        found = stages.explain(plan.store, plan.spec, plan.data, plan.members, device="cpu")
        stages.reduce(plan.store, plan.spec, plan.members, found)

    def results(self) -> Sallm:
        """What the runs came to."""
        return Sallm(self.spec, str(self.place))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "films"
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def taught(corpus, tmp_path_factory):
    """All variants, done once."""
    torch.set_num_threads(1)
    asked = "sallm.variants=[sallm, fine_tuned, iterative, semi_supervised, mean_teacher, shuffled]"
    chain = Chain(spec_of(corpus, asked), tmp_path_factory.mktemp("sallm"))
    for stage in variants.stages(chain.spec, str(chain.place)):
        for name in stage:
            chain.do(name)
    return chain
