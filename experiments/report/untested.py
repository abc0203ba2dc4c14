"""What of the paper cannot be tested at this scale, with the commands that would test it.

A reader has to fetch what stands in capitals: IMAGENET_WEIGHTS_PAPER (of the variant `paper`), TRAIN_LIST, TEST_LIST,
VIDEOS and the like. Every training runs once for each seed; three seeds are the least that give an interval over seeds.
"""

from dataclasses import dataclass

from experiments.report.statements import BEST, GAINS

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Untested:
    """A statement that needs what is not here.

    Attributes:
        says: what the paper states.
        source: where it states so.
        needs: the data and hardware, and what the toolkit lacks where there is no command.
        commands: what would test it, one after the other; empty if the toolkit cannot.
    """

    says: str
    source: str
    needs: str
    commands: tuple[str, ...] = ()


def _compared(
    recipe: str, task: str, gpus: int = 8, init: str = "IMAGENET_WEIGHTS", more: str = ""
) -> tuple[str, ...]:
    """Train VideoMambaPro and VideoMamba by one recipe, judge both, and put McNemar's test to their predictions."""
    loop = f"for seed in {' '.join(map(str, SEEDS))}; do {{}}; done"
    run = f"runs/{recipe}_{{}}_$seed"
    variants = ("paper", "videomamba")
    train = [
        f"accelerate launch --num_processes {gpus} -m experiments.train --recipe {recipe}{more} --variant {variant} "
        f"--seed $seed --init {init}_{variant.upper()} --train-list TRAIN_LIST --root VIDEOS "
        f"--out {run.format(variant)}"
        for variant in variants
    ]
    judge = [
        f"python -m experiments.evaluate --ckpt {run.format(variant)}/weights.safetensors --task {task} "
        f"--test-list TEST_LIST --root VIDEOS --clips 4 --crops 3 --device cuda --out {run.format(variant)}.csv"
        for variant in variants
    ]
    test = (
        f"python -m experiments.statistics {' '.join(f'{run.format(variant)}.csv' for variant in variants)}"
    )
    return tuple(loop.format(command) for command in (*train, *judge, test))


UNTESTED: tuple[Untested, ...] = (
    *(
        Untested(
            f"On {dataset}, VideoMambaPro surpasses VideoMamba in top-1 by "
            + " and by ".join(
                f"{gain.points} points ({gain.version})" for gain in GAINS if gain.dataset == dataset
            )
            + ".",
            "v3 and v4, abstract",
            f"{dataset}; weights pretrained on ImageNet-1K; 8 GPUs",
            _compared(recipe, task),
        )
        for dataset, task, recipe in (
            ("Kinetics-400", "kinetics400", "k400_tiny_f16"),
            ("Something-Something V2", "ssv2", "ssv2_tiny_f16"),
        )
    ),
    Untested(
        f"{BEST.model} has {BEST.top1} % top-1 on Kinetics-400, {BEST.below} points below {BEST.larger} with "
        f"{BEST.share} % of its parameters.",
        "v3, abstract; v4 no longer says so",
        "Kinetics-400, and weights from pretraining beyond it; 16 GPUs. InternVideo2 is not part of this toolkit",
        _compared("k400_small_f16", "kinetics400", 16, more=" --model videomambapro_middle"),
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
        ("python -m experiments.bench gpu", "python -m experiments.bench report"),
    ),
)
"""In the order of the report."""
