"""Which algorithms are allowed: explicit sets of names, the ones that are shipped, and what changes the choice."""

from pqfl_transport.policy.assessment import Assessment, assess
from pqfl_transport.policy.costs import Constraints, Costs, prefer
from pqfl_transport.policy.files import parse_policy
from pqfl_transport.policy.intelligence import Advised, Advisory, Change, Verdict, Withdrawal, advise, tighten
from pqfl_transport.policy.named import DEFAULT_LEVEL, POLICIES, choose, for_level, for_name, leaf_algorithm
from pqfl_transport.policy.sets import Classical, Policy, SecurityLevel

__all__ = [
    "DEFAULT_LEVEL",
    "POLICIES",
    "Advised",
    "Advisory",
    "Assessment",
    "Change",
    "Classical",
    "Constraints",
    "Costs",
    "Policy",
    "SecurityLevel",
    "Verdict",
    "Withdrawal",
    "advise",
    "assess",
    "choose",
    "for_level",
    "for_name",
    "leaf_algorithm",
    "parse_policy",
    "prefer",
    "tighten",
]
