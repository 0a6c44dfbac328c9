"""Searches for better prompts: one file a strategy, generators all of them, fed by one driver.

==========================  ================================================================================
name                        what it does
==========================  ================================================================================
``labeled-few-shot``        labelled rows as demos
``bootstrap-few-shot``      the teacher's own successful traces as demos, reasoning included
``bootstrap-random-search`` many such sets, the best on the val rows
``copro``                   instructions, breadth × depth, from scored attempts and the metric's own words
``auto``                    demos first, then instructions on top of the winner
==========================  ================================================================================

``registry.py`` knows the names; ``base.py`` is the contract for whoever writes another.
"""
