"""What a workshop needs, made from the same notebooks that a learner runs: editions, a look at the room's laptops, a class's progress.

Everything is made from what lies in the notebooks' folder, offline, and asks no network for anything. A lesson that is added there is in
every edition without a line here.
"""
