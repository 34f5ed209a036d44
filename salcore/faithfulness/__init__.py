"""How faithful a map is to its network: what happens when what it calls important is taken away, or where it lies.

Pure functions on models, inputs and attributions: batched, deterministic given a seed, on the model's device, and the
model is left as it was found. `kind` (`images`, `series`, `text`) says what a sample is, and with it what a position
is: a pixel with all its channels, a cell (feature, time step), a word. Attributions of None are random rankings.

| function | says | range | better | source |
| --- | --- | --- | --- | --- |
| `accuracy_drop` | area under the accuracy as the top positions are filled | 0 to 1 | lower | Ismail et al., 2021 |
| `remove_and_retrain` | the same of networks retrained without them (ROAR) | 0 to 1 | lower | Hooker et al., 2019 |
| `deletion`, `insertion` | area under the label's probability | 0 to 1 | lower, higher | Petsiuk et al., 2018 |
| `comprehensiveness` | probability lost without the rationale | -1 to 1 | higher | DeYoung et al., 2020 |
| `sufficiency` | probability lost with the rationale only | -1 to 1 | lower | DeYoung et al., 2020 |
| `precision_recall_areas` | weighted AUP, AUR against the informative cells | 0 to 0.8 | higher | Ismail et al., 2020 |
| `areas_above_random` | both, less those of a random ranking | -0.8 to 0.8 | higher | Ismail et al., 2021 |
| `human_agreement` | token F1, AUPRC, spans against what people marked | 0 to 1 | higher | DeYoung et al., 2020 |
| `gradient_spread` | share of the magnitude in the top pixels | 0 to 1 | higher | Ismail et al., 2021 |

Of an ensemble, `ensemble` measures every member's own maps and their mean map, and `over_members` gives the interval
over members; `measure` does both from a run directory.
"""

from salcore.faithfulness.accuracy_drop import accuracy_drop
from salcore.faithfulness.curves import Curve, area
from salcore.faithfulness.ground_truth import AboveRandom, Areas, areas_above_random, precision_recall_areas
from salcore.faithfulness.human import HumanAgreement, human_agreement
from salcore.faithfulness.insertion import Probabilities, deletion, insertion
from salcore.faithfulness.named import MEASURES, Measure, Subject
from salcore.faithfulness.of_run import Measured, measure, measures
from salcore.faithfulness.over_members import EnsembleValues, ensemble, over_members, paired
from salcore.faithfulness.ranking import ranks, scores
from salcore.faithfulness.rationales import Erasure, comprehensiveness, sufficiency
from salcore.faithfulness.removal import FILLS
from salcore.faithfulness.retraining import Explained, remove_and_retrain
from salcore.faithfulness.spread import Spread, gradient_spread

__all__ = [
    "FILLS",
    "MEASURES",
    "AboveRandom",
    "Areas",
    "Curve",
    "EnsembleValues",
    "Erasure",
    "Explained",
    "HumanAgreement",
    "Measure",
    "Measured",
    "Probabilities",
    "Spread",
    "Subject",
    "accuracy_drop",
    "area",
    "areas_above_random",
    "comprehensiveness",
    "deletion",
    "ensemble",
    "gradient_spread",
    "human_agreement",
    "insertion",
    "measure",
    "measures",
    "over_members",
    "paired",
    "precision_recall_areas",
    "ranks",
    "remove_and_retrain",
    "scores",
    "sufficiency",
]
