from gmi_registry.scoring.kernels import gram as gram
from gmi_registry.scoring.kernels import grams as grams
from gmi_registry.scoring.kernels import rbf as rbf
from gmi_registry.scoring.paper import paper_distance as paper_distance
from gmi_registry.scoring.paper import paper_distances as paper_distances
from gmi_registry.scoring.paper import rkme_distance as rkme_distance
from gmi_registry.scoring.query import Query as Query
from gmi_registry.scoring.scatter import WithinScatter as WithinScatter
from gmi_registry.scoring.scores import DEFAULT_SCORE as DEFAULT_SCORE
from gmi_registry.scoring.scores import KERNEL_SCORES as KERNEL_SCORES
from gmi_registry.scoring.scores import PAPER_GAMMA as PAPER_GAMMA
from gmi_registry.scoring.scores import SCORES as SCORES
from gmi_registry.scoring.scores import Candidates as Candidates
from gmi_registry.scoring.scores import Score as Score
from gmi_registry.scoring.scores import ascending as ascending
from gmi_registry.scoring.scores import margins as margins
from gmi_registry.scoring.scores import mid_ranks as mid_ranks
from gmi_registry.scoring.scores import score_named as score_named
from gmi_registry.scoring.scores import top_k_credit as top_k_credit

__all__ = [
    "DEFAULT_SCORE",
    "KERNEL_SCORES",
    "PAPER_GAMMA",
    "SCORES",
    "Candidates",
    "Query",
    "Score",
    "WithinScatter",
    "ascending",
    "gram",
    "grams",
    "margins",
    "mid_ranks",
    "paper_distance",
    "paper_distances",
    "rbf",
    "rkme_distance",
    "score_named",
    "top_k_credit",
]
