"""Which algorithms are allowed: explicit sets of names, the ones that are shipped, and what changes the choice."""

from pqfl_transport.policy.assessment import Assessment, Constraints, assess
from pqfl_transport.policy.named import DEFAULT_LEVEL, POLICIES, choose, for_level, for_name, leaf_algorithm
from pqfl_transport.policy.sets import Classical, Policy, SecurityLevel

__all__ = [
    "DEFAULT_LEVEL",
    "POLICIES",
    "Assessment",
    "Classical",
    "Constraints",
    "Policy",
    "SecurityLevel",
    "assess",
    "choose",
    "for_level",
    "for_name",
    "leaf_algorithm",
]
