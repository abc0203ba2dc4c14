"""What of the paper cannot be tested at this scale, with the commands that would.

IMAGENET_WEIGHTS_PAPER, which has to be of the variant `paper`, TRAIN_LIST, TEST_LIST, VIDEOS and the like stand for
what a reader has to fetch; every training here runs once for a seed, and three are the least from which an interval
over seeds can be had.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from experiments.report.sources import BEST, GAINS, Gain

DATASETS = {"Kinetics-400": "kinetics400", "Something-Something V2": "ssv2"}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Untested:
    """A claim that needs what is not here.

    Attributes:
        says: what the paper claims; source: where.
        needs: data and hardware, and what the toolkit lacks where there is no command.
        commands: that would test it, one after the other; none where the toolkit cannot.
    """

    says: str
    source: str
    needs: str
    commands: tuple[str, ...] = ()


def _compared(
    recipe: str, task: str, gpus: int = 8, init: str = "IMAGENET_WEIGHTS", more: str = ""
) -> tuple[str, ...]:
    """Train VideoMambaPro and VideoMamba by one recipe, judge both, and put McNemar's test to their predictions."""
    train, judge = [], []
    seeds = " ".join(map(str, SEEDS))
    for variant in ("paper", "videomamba"):
        train.append(
            f"for seed in {seeds}; do accelerate launch --num_processes {gpus} -m experiments.train "
            f"--recipe {recipe}{more} --variant {variant} --seed $seed --init {init}_{variant.upper()} "
            f"--train-list TRAIN_LIST --root VIDEOS --out runs/{recipe}_{variant}_$seed; done"
        )
        judge.append(
            f"for seed in {seeds}; do python -m experiments.evaluate "
            f"--ckpt runs/{recipe}_{variant}_$seed/weights.safetensors --task {task} --test-list TEST_LIST "
            f"--root VIDEOS --clips 4 --crops 3 --device cuda --out runs/{recipe}_{variant}_$seed.csv; done"
        )
    test = (
        f"for seed in {seeds}; do python -m experiments.statistics runs/{recipe}_paper_$seed.csv "
        f"runs/{recipe}_videomamba_$seed.csv; done"
    )
    return (*train, *judge, test)


def _gains() -> Iterator[Untested]:
    recipes = {"Kinetics-400": "k400_tiny_f16", "Something-Something V2": "ssv2_tiny_f16"}
    for dataset, recipe in recipes.items():
        stated = [gain for gain in GAINS if gain.dataset == dataset]
        yield Untested(
            f"On {dataset}, VideoMambaPro surpasses VideoMamba in top-1 by {' and by '.join(map(_stated, stated))}.",
            "v3 and v4, abstract",
            f"{dataset}; weights pretrained on ImageNet-1K; 8 GPUs",
            _compared(recipe, DATASETS[dataset]),
        )


def _stated(gain: Gain) -> str:
    points = f"{gain.low}" if gain.low == gain.high else f"{gain.low} to {gain.high}"
    return f"{points} points ({gain.version})"


UNTESTED: tuple[Untested, ...] = (
    *_gains(),
    Untested(
        f"{BEST.model} has {BEST.top1} % top-1 on Kinetics-400, {BEST.below} points below {BEST.larger} with "
        f"{BEST.share} % of its parameters.",
        "v3, abstract; v4 no longer says so",
        "Kinetics-400, and weights from pretraining beyond it; 16 GPUs. InternVideo2 is not part of this toolkit",
        _compared("k400_small_f16", DATASETS["Kinetics-400"], 16, more=" --model videomambapro_middle"),
    ),
    *(
        Untested(
            f"VideoMambaPro surpasses VideoMamba on {dataset} after fine-tuning.",
            "v3 and v4, experiments",
            f"{dataset}; weights trained on Kinetics-400; a GPU",
            _compared(f"{task}_tiny_f16", task, 1, "KINETICS_WEIGHTS"),
        )
        for dataset, task in (("UCF101", "ucf101"), ("HMDB51", "hmdb51"))
    ),
    Untested(
        "VideoMambaPro surpasses VideoMamba in localising actions on AVA.",
        "v3 and v4, experiments",
        "AVA, and a detection head that this toolkit does not have",
    ),
    Untested(
        "The changes help in pretraining on images too.",
        "v3 and v4, experiments",
        "ImageNet-1K and its training recipe, which this toolkit does not have: it starts from released weights "
        "(--init)",
    ),
    Untested(
        "VideoMambaPro is an efficient alternative to transformers.",
        "v3 and v4, abstract",
        "a GPU: times on a CPU say nothing of it",
        ("python -m experiments.bench model --device cuda", "python -m experiments.bench report"),
    ),
)
"""In the order of the report."""
