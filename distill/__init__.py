"""How a student ranker is made from a teacher."""
