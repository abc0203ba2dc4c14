"""The claims of VideoMambaPro's abstracts and analysis as data: what is said, where, and the rule that judges it.

Every rule was fixed before any result was seen. Sentences of the paper are retold, not quoted; v3 and v4 are versions
of arXiv 2406.19006 (`experiments.report.sources`).
"""

from dataclasses import dataclass

from experiments.report.sources import gains

ABSTRACT = "v3 and v4, abstract"
ANALYSIS = "v3 and v4, analysis of Mamba's token processing, as docs/math.md sections 3 and 4 read it"
CODE = "the released code, as docs/math.md section 1 reads it"
OURS = "ours: what the paper's two limits would lead one to expect"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        says: what the paper says, or what follows from it; source: where.
        measure: a key of `experiments.report.measures.MEASURES`.
        variant, reference: whose number, and less whose (of the same base and seed); None for the number itself.
        sign: +1 where the claim says that the number lies above `null`, -1 below.
        association: instead of all this, (task, quantity): the rank correlation of a probe's number with the task's
            accuracy over models of all variants.
    """

    id: str
    says: str
    source: str
    sign: int
    measure: str = ""
    variant: str = ""
    reference: str | None = None
    null: float = 0.0
    association: tuple[str, str] | None = None


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "both-help",
        f"Masked backward computation and elemental residual together surpass VideoMamba: {gains()}.",
        ABSTRACT,
        +1,
        "accuracy",
        "paper",
        "videomamba",
    ),
    Claim(
        "mask-helps",
        "Masked backward computation alone improves VideoMamba, as it answers historical decay.",
        ABSTRACT,
        +1,
        "accuracy",
        "mask",
        "videomamba",
    ),
    Claim(
        "residual-helps",
        "The elemental residual alone improves VideoMamba, as it answers element contradiction. That elemental "
        "means every token's is our reading.",
        ABSTRACT,
        +1,
        "accuracy",
        "residual_elemental",
        "videomamba",
    ),
    Claim(
        "released-residual-helps",
        "The residual as released, of the first token alone, improves VideoMamba.",
        CODE,
        +1,
        "accuracy",
        "residual_initial",
        "videomamba",
    ),
    Claim(
        "both-beat-mask",
        "Both changes together are worth more than the mask alone.",
        ABSTRACT,
        +1,
        "accuracy",
        "paper",
        "mask",
    ),
    Claim(
        "both-beat-residual",
        "Both changes together are worth more than the residual alone.",
        ABSTRACT,
        +1,
        "accuracy",
        "paper",
        "residual_elemental",
    ),
    Claim(
        "attention-better",
        "Self-attention recognises better than VideoMamba, as it has neither limit; here at equal parameters.",
        ABSTRACT,
        +1,
        "accuracy",
        "attention",
        "videomamba",
    ),
    Claim(
        "double-diagonal",
        "VideoMamba's sum of two directions counts each token's relation to itself twice, which strengthens decay; the "
        "mask takes one copy away, and decay with it.",
        ANALYSIS,
        -1,
        "decay",
        "mask",
        "videomamba",
    ),
    Claim(
        "mamba-decays",
        "Historical decay: Mamba's tokens attend less far than self-attention's.",
        ABSTRACT,
        +1,
        "decay",
        "videomamba",
        "attention",
    ),
    Claim(
        "vmp-decays-less",
        "VideoMambaPro decays less than VideoMamba.",
        ABSTRACT,
        -1,
        "decay",
        "paper",
        "videomamba",
    ),
    Claim(
        "distance-costs",
        "Historical decay costs recognition: VideoMamba recalls the less, the further a cue is from the read-out.",
        OURS,
        -1,
        "distance",
        "videomamba",
    ),
    Claim(
        "distance-costs-more",
        "Distance costs VideoMamba more than self-attention.",
        OURS,
        -1,
        "distance",
        "videomamba",
        "attention",
    ),
    Claim(
        "vmp-recalls-further",
        "Distance costs VideoMambaPro less than VideoMamba.",
        OURS,
        +1,
        "distance",
        "paper",
        "videomamba",
    ),
    Claim(
        "mediators-cost",
        "Element contradiction costs recognition: tokens between two others that are like one of them or both lower "
        "VideoMamba's accuracy in relating the two.",
        OURS,
        -1,
        "mediators",
        "videomamba",
    ),
    Claim(
        "mediators-cost-more",
        "Similar tokens in between cost VideoMamba more than self-attention.",
        OURS,
        -1,
        "mediators",
        "videomamba",
        "attention",
    ),
    Claim(
        "contradiction",
        "Element contradiction: VideoMamba gives tokens weight against their similarity (contradictory mass above 1).",
        ANALYSIS,
        +1,
        "mass",
        "videomamba",
        null=1.0,
    ),
    Claim(
        "mamba-contradicts-more",
        "VideoMamba's weights contradict similarity more than self-attention's.",
        ABSTRACT,
        +1,
        "mass",
        "videomamba",
        "attention",
    ),
    Claim(
        "vmp-contradicts-less",
        "VideoMambaPro lowers element contradiction, by the weight on dissimilar tokens.",
        ABSTRACT,
        -1,
        "mass",
        "paper",
        "videomamba",
    ),
    Claim(
        "vmp-mediates-less",
        "VideoMambaPro lowers element contradiction, by what a token in between changes in the relation of two others.",
        ABSTRACT,
        -1,
        "mediation",
        "paper",
        "videomamba",
    ),
    Claim(
        "decay-predicts-recall",
        "Less decay goes with better recall.",
        OURS,
        -1,
        association=("recall", "decay_index_tokens"),
    ),
    Claim(
        "contradiction-predicts-relation",
        "Less contradiction goes with better relations.",
        OURS,
        -1,
        association=("relation", "contradictory_mass"),
    ),
)
"""In the order of the report. Nothing in them is a number of ours."""
