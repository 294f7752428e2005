"""How a teacher and a student come to be: located, checked, tuned, cut, narrowed, fitted again.

Imports training, losses, data and options; knows no stage.
"""
