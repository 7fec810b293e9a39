"""Studies: does the rule learn, and does it do harm? Each has a folder with `study`, `report` and `pictures`.

`contract` says what a study is, `runner` runs it, `catalogue` finds it by its name.
"""
