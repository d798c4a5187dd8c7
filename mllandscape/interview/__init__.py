"""The mock interview of lesson 10: questions with their rubric, fresh numeric questions, what one believed against what was so, and an incident drill.

Nothing here is graded by a model and nothing leaves the machine. Every number comes from the engines of the other rooms when it is asked for.
"""
