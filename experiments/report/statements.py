"""What VideoMambaPro's abstracts and analysis state: the gains, and every statement that a grid can judge.

Every rule was fixed before any result was seen. The sentences of the paper are retold and not quoted. v3 and v4 are
versions of Lu, Salah and Poppe, arXiv 2406.19006.
"""

from dataclasses import dataclass

ARXIV = "2406.19006"
ABSTRACT = "v3 and v4, abstract"
ANALYSIS = "v3 and v4, analysis of Mamba's token processing, as docs/math.md sections 3 and 4 read it"
CODE = "the released code, as docs/math.md section 1 reads it"
OURS = "ours: what the paper's two limits would lead one to expect"


@dataclass(frozen=True)
class Gain:
    """Top-1 points over VideoMamba that an abstract states on one dataset; `low` is `high` for a single number."""

    version: str
    dataset: str
    low: float
    high: float

    @property
    def points(self) -> str:
        return f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"


GAINS = (
    Gain("v3", "Kinetics-400", 7.9, 7.9),
    Gain("v3", "Something-Something V2", 8.1, 8.1),
    Gain("v4", "Kinetics-400", 1.6, 2.8),
    Gain("v4", "Something-Something V2", 1.1, 1.9),
)


@dataclass(frozen=True)
class Best:
    """The best model of v3's abstract on Kinetics-400, which v4's abstract no longer names.

    Attributes:
        model: its name.
        top1: its top-1 accuracy, in percent.
        larger: the larger model that it is compared with.
        below: by how many points it is below that model.
        share: the share of that model's parameters that it has, in percent.
    """

    model: str
    top1: float
    larger: str
    below: float
    share: float


BEST = Best("VideoMambaPro-M", 91.9, "InternVideo2-6B", 0.2, 1.2)


def disagreement() -> tuple[float, float]:
    """The least and the largest factor between v3's gain and v4's gain on the same dataset."""
    older, newer = ({g.dataset: g for g in GAINS if g.version == version} for version in ("v3", "v4"))
    factors = [older[name].low / gain for name in older for gain in (newer[name].low, newer[name].high)]
    return min(factors), max(factors)


def gains() -> str:
    """Every gain that the abstracts state, in words."""
    return "; ".join(
        f"{version} "
        + " and ".join(
            f"by {gain.points} points on {gain.dataset}" for gain in GAINS if gain.version == version
        )
        for version in dict.fromkeys(gain.version for gain in GAINS)
    )


@dataclass(frozen=True)
class Statement:
    """One statement about a number.

    Attributes:
        id: its name.
        source: where the paper says so, or what it follows from.
        effect: a key of `experiments.report.effects.EFFECTS`; empty where `association` is given.
        sign: +1 if the statement says that the number lies above `null`, -1 if below.
        variant: the variant whose number it is.
        reference: the variant whose number of the same base and seed is subtracted; None for the number itself.
        says: the statement in words.
        null: the number if there is no effect.
        association: (task, quantity): the number is the rank correlation of a probe's quantity with the accuracy of
            the task, over models of all variants.
    """

    id: str
    source: str
    effect: str
    sign: int
    variant: str
    reference: str | None
    says: str
    null: float = 0.0
    association: tuple[str, str] | None = None


# fmt: off
STATEMENTS: tuple[Statement, ...] = (
    Statement("both-help", ABSTRACT, "accuracy", +1, "paper", "videomamba",
        f"Masked backward computation and elemental residual together surpass VideoMamba: {gains()}."),
    Statement("mask-helps", ABSTRACT, "accuracy", +1, "mask", "videomamba",
        "Masked backward computation alone improves VideoMamba, as it answers historical decay."),
    Statement("residual-helps", ABSTRACT, "accuracy", +1, "residual_elemental", "videomamba",
        "The elemental residual alone improves VideoMamba, as it answers element contradiction. That elemental means "
        "every token's is our reading."),
    Statement("released-residual-helps", CODE, "accuracy", +1, "residual_initial", "videomamba",
        "The residual as released, of the first token alone, improves VideoMamba."),
    Statement("both-beat-mask", ABSTRACT, "accuracy", +1, "paper", "mask",
        "Both changes together are worth more than the mask alone."),
    Statement("both-beat-residual", ABSTRACT, "accuracy", +1, "paper", "residual_elemental",
        "Both changes together are worth more than the residual alone."),
    Statement("attention-better", ABSTRACT, "accuracy", +1, "attention", "videomamba",
        "Self-attention recognises better than VideoMamba, as it has neither limit; here at equal parameters."),
    Statement("double-diagonal", ANALYSIS, "decay", -1, "mask", "videomamba",
        "VideoMamba's sum of two directions counts each token's relation to itself twice, which strengthens decay; "
        "the mask takes one copy away, and decay with it."),
    Statement("mamba-decays", ABSTRACT, "decay", +1, "videomamba", "attention",
        "Historical decay: Mamba's tokens attend less far than self-attention's."),
    Statement("vmp-decays-less", ABSTRACT, "decay", -1, "paper", "videomamba",
        "VideoMambaPro decays less than VideoMamba."),
    Statement("distance-costs", OURS, "distance", -1, "videomamba", None,
        "Historical decay costs recognition: VideoMamba recalls the less, the further a cue is from the read-out."),
    Statement("distance-costs-more", OURS, "distance", -1, "videomamba", "attention",
        "Distance costs VideoMamba more than self-attention."),
    Statement("vmp-recalls-further", OURS, "distance", +1, "paper", "videomamba",
        "Distance costs VideoMambaPro less than VideoMamba."),
    Statement("mediators-cost", OURS, "mediators", -1, "videomamba", None,
        "Element contradiction costs recognition: tokens between two others that are like one of them or both lower "
        "VideoMamba's accuracy in relating the two."),
    Statement("mediators-cost-more", OURS, "mediators", -1, "videomamba", "attention",
        "Similar tokens in between cost VideoMamba more than self-attention."),
    Statement("contradiction", ANALYSIS, "mass", +1, "videomamba", None,
        "Element contradiction: VideoMamba gives tokens weight against their similarity (contradictory mass above 1).",
        null=1.0),
    Statement("mamba-contradicts-more", ABSTRACT, "mass", +1, "videomamba", "attention",
        "VideoMamba's weights contradict similarity more than self-attention's."),
    Statement("vmp-contradicts-less", ABSTRACT, "mass", -1, "paper", "videomamba",
        "VideoMambaPro lowers element contradiction, by the weight on dissimilar tokens."),
    Statement("vmp-mediates-less", ABSTRACT, "mediation", -1, "paper", "videomamba",
        "VideoMambaPro lowers element contradiction, by what a token in between changes in the relation of two "
        "others."),
    Statement("decay-predicts-recall", OURS, "", -1, "", None,
        "Less decay goes with better recall.", association=("recall", "decay_index_tokens")),
    Statement("contradiction-predicts-relation", OURS, "", -1, "", None,
        "Less contradiction goes with better relations.", association=("relation", "contradictory_mass")),
)
# fmt: on
"""The statements in the order of the report. No number in them is ours."""
