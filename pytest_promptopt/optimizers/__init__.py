"""Searches for better prompts: one file a strategy, generators all of them, fed by one driver.

==========================  ================================================================================
name                        what it does
==========================  ================================================================================
``labeled-few-shot``        labelled rows as demos
``bootstrap-few-shot``      the teacher's own successful traces as demos, reasoning included
``bootstrap-random-search`` many such sets, the best on the val rows
``bootstrap-optuna``        such sets for each prompt apart, combined by Bayesian search
``copro``                   instructions, breadth × depth, from scored attempts and the metric's own words
``gepa``                    instructions by reflection on a few failing rows, parents from the per-row front
``reflect-race``            edits of the best after its failures, raced on shared rows; what ``auto`` stands for
==========================  ================================================================================

``registry.py`` knows the names; ``base.py`` is the contract for whoever writes another.
"""
