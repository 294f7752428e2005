"""How a student ranker is made from a teacher."""

import rankdistill.export  # noqa: F401 - first: it silences libraries that would tell their makers of their use
