"""The experiment: who is in which arm, each user's outcome, and what the arms' outcomes say. Pure.

It knows neither the loop nor the store. Time is an argument.
"""
